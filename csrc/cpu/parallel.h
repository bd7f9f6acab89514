// Work sharing on PyTorch's own threads.
#pragma once

#include <atomic>
#include <cstdint>
#include <type_traits>

#include "../torch_abi.h"

namespace glip {

inline int64_t num_threads() {
  uint32_t threads = 1;
  succeed(torch_get_num_threads(&threads), "get_num_threads");
  return threads;
}

// Calls body(begin, end) on pieces of [0, count) that are at least `grain` long.
template <typename Body>
void parallel_for(int64_t count, int64_t grain, const Body& body) {
  if (count <= 0) return;
  const auto thunk = [](int64_t begin, int64_t end, void* context) {
    (*static_cast<const Body*>(context))(begin, end);
  };
  succeed(torch_parallel_for(0, count, grain, thunk, const_cast<Body*>(&body)), "parallel_for");
}

// Calls body(unit, scratch) for every unit in [0, count). Threads take the next free unit, so that
// units of uneven length, or a busy core, do not leave the others waiting. Every thread makes its
// scratch once, by make_scratch(). Results must not depend on which thread did a unit.
template <typename MakeScratch, typename Body>
void parallel_units(int64_t count, const MakeScratch& make_scratch, const Body& body) {
  const int64_t workers = count < num_threads() ? count : num_threads();
  std::atomic<int64_t> next{0};
  parallel_for(workers, 1, [&](int64_t, int64_t) {
    auto scratch = make_scratch();
    for (int64_t unit = next++; unit < count; unit = next++) {
      body(unit, scratch);
    }
  });
}

}  // namespace glip

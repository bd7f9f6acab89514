// Greedy suppression: plain, per label, soft.
//
// A candidate is compared with the boxes kept so far, which lie in arrays of their own: suppressed
// boxes cost nothing later, and the first overlap ends the search. Candidates come in blocks; a block
// is compared with everything kept before it on all threads, and within itself in order, so that the
// result is that of the sequential loop on any number of threads.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <vector>

#include "../checks.h"
#include "kernels.h"
#include "ops.h"
#include "parallel.h"

namespace glip {
namespace {

constexpr int64_t kBlock = 1024;             // candidates compared with the kept boxes at a time
constexpr int64_t kPairsPerThread = 1 << 22;  // about a millisecond: waking threads must pay
constexpr int64_t kLongRun = 8192;           // boxes of one label that get all threads

// Stable order of unsigned keys, ascending: permutes `order` by keys[order[i]].
template <typename Key>
void radix_sort(const std::vector<Key>& keys, Key largest, std::vector<int64_t>& order) {
  constexpr int kDigitBits = 11;
  constexpr size_t kDigits = size_t{1} << kDigitBits;
  std::vector<int64_t> other(order.size());
  for (int shift = 0; shift < static_cast<int>(8 * sizeof(Key)) && (largest >> shift) != 0;
       shift += kDigitBits) {
    std::vector<int64_t> start(kDigits + 1, 0);
    for (const int64_t i : order) ++start[((keys[i] >> shift) & (kDigits - 1)) + 1];
    std::partial_sum(start.begin(), start.end(), start.begin());
    for (const int64_t i : order) other[start[(keys[i] >> shift) & (kDigits - 1)]++] = i;
    order.swap(other);
  }
}

// An unsigned number that grows as the score falls; NaN comes first, as in torch.sort.
template <typename T, typename Key>
Key descending_key(T score) {
  if (std::isnan(score)) return 0;
  const T plain = score + T(0);  // -0 and 0 are equal
  Key bits;
  std::memcpy(&bits, &plain, sizeof(bits));
  constexpr Key kSign = Key{1} << (8 * sizeof(Key) - 1);
  return (bits & kSign) ? bits : static_cast<Key>(~(bits | kSign));
}

// Indices by descending score, of equal scores the earlier first.
template <typename T>
std::vector<int64_t> by_score(const T* scores, int64_t count) {
  using Key = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
  std::vector<int64_t> order(count);
  std::iota(order.begin(), order.end(), 0);
  std::vector<Key> keys(count);
  for (int64_t i = 0; i < count; ++i) keys[i] = descending_key<T, Key>(scores[i]);
  if (count < 512) {
    std::stable_sort(order.begin(), order.end(),
                     [&](int64_t a, int64_t b) { return keys[a] < keys[b]; });
  } else {
    radix_sort(keys, std::numeric_limits<Key>::max(), order);
  }
  return order;
}

// The boxes kept so far; beyond `count` there are boxes that overlap nothing.
template <typename T>
class KeptBoxes {
 public:
  explicit KeptBoxes(int64_t capacity)
      : stride_((capacity + 2 * kPadding) / kPadding * kPadding), values_(5 * stride_) {}

  void clear() {
    count_ = 0;
    fill_padding();
  }

  int64_t count() const { return count_; }

  void append(const Box<T>& box) {
    if (count_ % kPadding == 0) fill_padding();
    T* const at = values_.data() + count_;
    at[0] = box.x1;
    at[stride_] = box.y1;
    at[2 * stride_] = box.x2;
    at[3 * stride_] = box.y2;
    at[4 * stride_] = box.area;
    ++count_;
  }

  BoxArrays<T> arrays(int64_t first) const {
    const T* const at = values_.data() + first;
    return {at, at + stride_, at + 2 * stride_, at + 3 * stride_, at + 4 * stride_};
  }

 private:
  // At least the lanes of the widest vector, twice over: a search may start between two vectors.
  static constexpr int64_t kPadding = 32;

  void fill_padding() {
    const T infinity = std::numeric_limits<T>::infinity();
    const int64_t end = std::min(stride_, count_ + 2 * kPadding);
    for (int64_t i = count_; i < end; ++i) {
      values_[i] = values_[stride_ + i] = infinity;
      values_[2 * stride_ + i] = values_[3 * stride_ + i] = -infinity;
      values_[4 * stride_ + i] = 0;
    }
  }

  int64_t stride_;
  int64_t count_ = 0;
  std::vector<T> values_;
};

template <typename T>
struct Rule {
  T pixel;      // 1 where the far edge belongs to the box
  T threshold;  // suppressed above this
};

template <typename T>
Box<T> read_box(const T* boxes, int64_t i, T pixel) {
  const T* const b = boxes + 4 * i;
  return {b[0], b[1], b[2], b[3], (b[2] - b[0] + pixel) * (b[3] - b[1] + pixel)};
}

// Marks in `keep` which of the boxes order[0..count), best first, survive.
template <typename T>
void suppress(const T* boxes, const int64_t* order, int64_t count, const Rule<T>& rule,
              bool threaded, KeptBoxes<T>& kept, bool* keep) {
  const Kernels<T>& simd = kernels<T>();
  std::vector<Box<T>> block(std::min(kBlock, count));
  std::vector<char> dead(block.size());
  kept.clear();
  for (int64_t start = 0; start < count; start += kBlock) {
    const int64_t size = std::min(kBlock, count - start);
    const int64_t before = kept.count();
    const auto compare = [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        block[i] = read_box(boxes, order[start + i], rule.pixel);
        dead[i] = simd.overlaps(kept.arrays(0), before, block[i], rule.pixel, rule.threshold);
      }
    };
    if (threaded) {
      parallel_for(size, std::max<int64_t>(1, kPairsPerThread / (before + 1)), compare);
    } else {
      compare(0, size);
    }
    for (int64_t i = 0; i < size; ++i) {
      if (dead[i] || simd.overlaps(kept.arrays(before), kept.count() - before, block[i],
                                   rule.pixel, rule.threshold)) {
        continue;
      }
      kept.append(block[i]);
      keep[order[start + i]] = true;
    }
  }
}

Tensor to_tensor(const std::vector<int64_t>& values, const Tensor& like) {
  Tensor result = empty<1>({static_cast<int64_t>(values.size())}, DType::kInt64, like);
  std::copy(values.begin(), values.end(), result.data<int64_t>());
  return result;
}

template <typename T>
Tensor nms_typed(const Tensor& boxes, const Tensor& scores, double threshold) {
  const int64_t count = boxes.size(0);
  const std::vector<int64_t> order = by_score(scores.data<T>(), count);
  const auto keep = std::make_unique<bool[]>(count);
  KeptBoxes<T> kept(count);
  suppress<T>(boxes.data<T>(), order.data(), count, {T(0), round_down<T>(threshold)}, true, kept,
              keep.get());
  std::vector<int64_t> result;
  std::copy_if(order.begin(), order.end(), std::back_inserter(result),
               [&](int64_t i) { return keep[i]; });
  return to_tensor(result, boxes);
}

template <typename T>
Tensor ml_nms_typed(const Tensor& boxes, const Tensor& scores, const Tensor& labels,
                    double threshold) {
  const int64_t count = boxes.size(0);
  const auto keep = std::make_unique<bool[]>(count);
  if (count > 0) {
    std::vector<int64_t> order = by_score(scores.data<T>(), count);
    const int64_t* const label = labels.data<int64_t>();
    const auto [low, high] = std::minmax_element(label, label + count);
    std::vector<uint64_t> keys(count);
    for (int64_t i = 0; i < count; ++i) {
      keys[i] = static_cast<uint64_t>(label[i]) - static_cast<uint64_t>(*low);
    }
    radix_sort(keys, static_cast<uint64_t>(*high) - static_cast<uint64_t>(*low), order);

    struct Run {
      int64_t begin, size;
    };
    std::vector<Run> runs;
    int64_t longest = 0, pairs = 0;
    const Rule<T> rule{T(1), static_cast<T>(threshold)};
    const T* const corners = boxes.data<T>();
    for (int64_t begin = 0, end = 0; begin < count; begin = end) {
      while (end < count && label[order[end]] == label[order[begin]]) ++end;
      if (end - begin >= kLongRun) {
        KeptBoxes<T> kept(end - begin);
        suppress(corners, order.data() + begin, end - begin, rule, true, kept, keep.get());
      } else {
        runs.push_back({begin, end - begin});
        longest = std::max(longest, end - begin);
        pairs += (end - begin) * (end - begin) / 2;
      }
    }
    const auto scratch = [&] { return KeptBoxes<T>(longest); };
    const auto work = [&](int64_t unit, KeptBoxes<T>& kept) {
      suppress(corners, order.data() + runs[unit].begin, runs[unit].size, rule, false, kept,
               keep.get());
    };
    if (pairs < 2 * kPairsPerThread) {
      KeptBoxes<T> kept = scratch();
      for (size_t unit = 0; unit < runs.size(); ++unit) work(static_cast<int64_t>(unit), kept);
    } else {
      parallel_units(static_cast<int64_t>(runs.size()), scratch, work);
    }
  }
  std::vector<int64_t> result;
  for (int64_t i = 0; i < count; ++i) {
    if (keep[i]) result.push_back(i);
  }
  return to_tensor(result, boxes);
}

template <typename T>
std::tuple<Tensor, Tensor> soft_nms_typed(const Tensor& boxes, const Tensor& scores,
                                          double score_threshold, double sigma) {
  const T* const corners = boxes.data<T>();
  int64_t alive = boxes.size(0);
  std::vector<Box<T>> box(alive);
  std::vector<T> score(scores.data<T>(), scores.data<T>() + alive);
  std::vector<int64_t> index(alive);
  std::iota(index.begin(), index.end(), 0);
  for (int64_t i = 0; i < alive; ++i) box[i] = read_box(corners, i, T(1));
  const T threshold = static_cast<T>(score_threshold), scale = static_cast<T>(-1 / sigma);
  const auto move = [&](int64_t from, int64_t to) {
    box[to] = box[from];
    score[to] = score[from];
    index[to] = index[from];
  };
  for (int64_t i = 0; i < alive; ++i) {
    const int64_t best = std::max_element(score.begin() + i, score.begin() + alive) - score.begin();
    std::swap(box[i], box[best]);
    std::swap(score[i], score[best]);
    std::swap(index[i], index[best]);
    const Box<T> chosen = box[i];
    for (int64_t j = i + 1; j < alive;) {
      const T width = std::min(chosen.x2, box[j].x2) - std::max(chosen.x1, box[j].x1) + 1;
      const T height = std::min(chosen.y2, box[j].y2) - std::max(chosen.y1, box[j].y1) + 1;
      if (width > 0 && height > 0) {
        const T intersection = width * height;
        const T overlap = intersection / (chosen.area + box[j].area - intersection);
        score[j] *= std::exp(overlap * overlap * scale);
      }
      if (score[j] < threshold) {
        move(--alive, j);
      } else {
        ++j;
      }
    }
  }
  index.resize(alive);
  Tensor decayed = empty<1>({alive}, boxes.dtype(), boxes);
  std::copy_n(score.begin(), alive, decayed.data<T>());
  return {to_tensor(index, boxes), decayed};
}

}  // namespace

Tensor nms_cpu(Tensor boxes, Tensor scores, double iou_threshold) {
  check_boxes(boxes, scores);
  boxes = contiguous(boxes);
  scores = contiguous(scores);
  return boxes.dtype() == DType::kFloat64 ? nms_typed<double>(boxes, scores, iou_threshold)
                                          : nms_typed<float>(boxes, scores, iou_threshold);
}

Tensor ml_nms_cpu(Tensor boxes, Tensor scores, Tensor labels, double iou_threshold) {
  check_boxes(boxes, scores);
  check_labels(boxes, labels);
  boxes = contiguous(boxes);
  scores = contiguous(scores);
  labels = contiguous(labels);
  return boxes.dtype() == DType::kFloat64
             ? ml_nms_typed<double>(boxes, scores, labels, iou_threshold)
             : ml_nms_typed<float>(boxes, scores, labels, iou_threshold);
}

std::tuple<Tensor, Tensor> soft_nms_cpu(Tensor boxes, Tensor scores, double score_threshold,
                                        double sigma) {
  check_boxes(boxes, scores);
  check(sigma > 0, "sigma must be positive, got ", sigma);
  boxes = contiguous(boxes);
  scores = contiguous(scores);
  return boxes.dtype() == DType::kFloat64
             ? soft_nms_typed<double>(boxes, scores, score_threshold, sigma)
             : soft_nms_typed<float>(boxes, scores, score_threshold, sigma);
}

}  // namespace glip

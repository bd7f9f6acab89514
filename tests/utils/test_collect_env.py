"""The report of versions and active operators."""

import torch

from maskrcnn_benchmark.layers import _native
from maskrcnn_benchmark.utils import collect_env


def facts() -> dict[str, str]:
    lines = collect_env.collect_env_info().splitlines()
    return {name.strip(): value for name, _, value in (line.partition("  ") for line in lines)}


def test_versions_and_active_operators_are_told():
    report = facts()

    assert report["torch"].strip() == torch.__version__
    for device, backend in _native.describe().items():
        assert report[f"operators on {device}"].strip() == backend


def test_what_is_not_installed_is_said(monkeypatch):
    monkeypatch.setattr(collect_env, "PACKAGES", ("no-such-package",))

    assert facts()["no-such-package"].strip() == "not installed"

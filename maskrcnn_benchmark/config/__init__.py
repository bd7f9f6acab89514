"""What can be set, and where files are found.

`cfg` is the tree of all settings at their defaults. Tools clone it or merge into it in the
order file, task file, command line.
"""

from maskrcnn_benchmark.config.defaults import default_config
from maskrcnn_benchmark.config.node import CfgNode
from maskrcnn_benchmark.errors import ConfigError

cfg: CfgNode = default_config()

__all__ = ["CfgNode", "ConfigError", "cfg", "default_config"]

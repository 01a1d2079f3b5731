"""Programs as DSPy modules: the modules themselves, the user's own code, tools, rewards and optimised states.

``build_module(program)`` gives the very module that a worker runs, for an optimiser to work on: see
docs/how-to/bring-an-optimised-program.md.
"""

from workers.adapters.dspy.modules.hosted_modules import HostedModule, build_module, host_module

__all__ = ["HostedModule", "build_module", "host_module"]

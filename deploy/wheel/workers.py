"""The module ``workers`` of an installed wheel: importing it gives DSPex's package ``dspex/workers``.

So ``celery -A workers.app`` works from a wheel as from a checkout, where the package itself has this name. A user's own
package ``workers`` comes first wherever Python finds it first, and DSPex's processes do not need this module.
"""

from dspex.program.worker_package import load_workers

load_workers()

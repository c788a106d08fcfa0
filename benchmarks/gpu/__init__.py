"""What is checked and timed on a machine with a GPU, which may have none of the packages that only records need.

Importing anything of it first puts stand-ins in their place; pytest does so by PYTEST_PLUGINS.
"""

from benchmarks.gpu.stand_ins import install_stand_ins

install_stand_ins()

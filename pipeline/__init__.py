"""ocuseg: segments ophthalmology scans. The command line is ``ocuseg``, the seams are in :mod:`pipeline.types`."""

import os

# OpenMP's threads spin while they wait. Beside any other busy process on the same cores that makes a training step five times slower
# (3.3 s against 0.6 s on two cores), and alone it gains nothing measurable. OpenMP reads this when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

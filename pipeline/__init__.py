"""ocuseg: segments ophthalmology scans. The command line is ``ocuseg``, the seams are in :mod:`pipeline.types`."""

import os

# OpenMP's threads spin while they wait. Beside another busy process on the same cores that makes a training step several times slower,
# and alone it gains nothing that could be measured. OpenMP reads this when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

"""What must hold in a world of whole nodes, and who looks.

A world (``simnet/virtual``, ``simnet/cores``) tells one ``Watch`` what reaches disks and what it measures itself. The checkers
decide with their own books from the bytes that peers finalized and stored; they never ask a node or a machine of
``consensus``. ``compute`` alone is asked, as the definition of the arithmetic. Begin with ``watch.py``; each rule is a file.
"""

from simnet.checkers.facts import LossModel
from simnet.checkers.watch import NAMES, Watch, check_names

__all__ = ["NAMES", "LossModel", "Watch", "check_names"]

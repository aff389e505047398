"""The cards' small set serves here too."""

from tests.cards.conftest import small_set as small_set

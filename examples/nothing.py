"""The smallest node: one model, which does nothing.

    python nothing.py

and then, from another terminal::

    fossa submit NothingEtl --wait
"""

import ayeaye

from fossa import BaseConfig, run_fossa


class NothingEtl(ayeaye.Model):
    """Does nothing, completely."""

    def build(self):
        pass


class FossaConfig(BaseConfig):
    """A node that runs `NothingEtl` only."""

    ACCEPTED_MODEL_CLASSES = [NothingEtl]


run_fossa(FossaConfig)

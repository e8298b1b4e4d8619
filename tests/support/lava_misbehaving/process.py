from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.process.process import AbstractProcess


class Misbehaving(AbstractProcess):
    """Passes on two lines until step 2, then does `how`: "nothing", "raise", "hang", "stop", "die".

    "refuse": is not even built.
    """

    def __init__(self, how: str) -> None:
        super().__init__(how=how)
        self.inp, self.out = InPort(shape=(2,)), OutPort(shape=(2,))

"""BN511: a forward that forgets its return."""

import pytest
from torch import nn


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 4)


class Forgotten(Base):
    def forward(self, x):
        x = self.fc(x)
        y, z = x.chunk(2, 1)  # noqa: RUF059


class Added(Base):
    def forward(self, x):
        y = self.fc(x)
        y += 1


class Returned(Base):
    def forward(self, x):  # noqa: RET503
        if x.shape[0] > 1:
            return self.fc(x)
        x = x * 2


class Kept(Base):
    def forward(self, x):
        self.last = self.fc(x)


class Ignored(Base):
    def forward(self, x):
        _ = self.fc(x)


class Listed(Base):
    def forward(self, x):
        self.seen = []
        self.seen.append(self.fc(x))


class Steps(Base):
    def forward(self, x):
        yield self.fc(x)
        x = x + 1


@pytest.mark.parametrize(("cls", "offset"), [(Forgotten, 2), (Added, 2)])
def test_a_lost_result(found, cls, offset):
    (finding,) = found(cls(), "4x8", select=["BN511"]).values()
    assert finding.module_path == "" and finding.location.line == cls.forward.__code__.co_firstlineno + offset


def test_in_a_part_of_the_model(found):
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.inner = nn.Linear(8, 8), Forgotten()

        def forward(self, x):
            x = self.first(x)
            self.inner(x)
            return x

    (finding,) = found(Outer(), "4x8", select=["BN511"]).values()
    assert finding.module_path == "inner"


@pytest.mark.parametrize("cls", [Returned, Kept, Ignored, Listed, Steps])
def test_kept_or_returned(found, cls):
    assert found(cls(), "4x8", select=["BN511"]) == {}

"""Real bugs of the activation family, each found at its line and silent when repaired."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from .cases import ERROR, INFO, WARNING, Case


class LogisticRegression(nn.Module):
    def __init__(self, right):
        super().__init__()
        self.linear, self.right = nn.Linear(42, 10), right

    def forward(self, x):
        logits = self.linear(x)
        return logits if self.right else F.softmax(logits, -1)  # bug


class SemanticSimilarity(nn.Module):
    """A query against one matching and some other documents: cosine similarities, then a softmax, then the loss."""

    def __init__(self, right):
        super().__init__()
        self.query, self.document = (nn.Sequential(nn.Linear(16, 8), nn.Tanh()) for _ in range(2))
        self.gamma = nn.Parameter(torch.tensor(10.0))
        self.end = nn.Identity() if right else nn.Softmax(dim=1)  # bug

    def forward(self, query, documents):
        scores = F.cosine_similarity(self.query(query)[:, None], self.document(documents), dim=2)
        return self.end(self.gamma * scores)


class Matching(nn.Module):
    """Attention over a support set; the loss is the cross entropy with the matching element."""

    def __init__(self, right):
        super().__init__()
        self.embed, self.right = nn.Linear(16, 8), right

    def forward(self, support, query):
        similarity = (self.embed(support) @ self.embed(query)[:, :, None])[:, :, 0] / 8**0.5
        return similarity if self.right else torch.softmax(similarity, 1)  # bug


class Wrapped(nn.Module):
    """A helper for export was left in the loader: it puts a softmax around every ready-made classifier."""

    def __init__(self, right):
        super().__init__()
        self.body, self.fc = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), nn.Linear(8, 10)
        if not right:
            inner = self.forward
            self.forward = lambda x: torch.softmax(inner(x), 1)  # bug

    def forward(self, x):
        return self.fc(self.body(x).mean((2, 3)))


class LogSoftmax(nn.Module):
    """Per pixel, before cross entropy: applied twice, with the same result."""

    def __init__(self, right):
        super().__init__()
        self.body, self.classes = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), nn.Conv2d(8, 21, 1)
        self.end = nn.Identity() if right else nn.LogSoftmax(dim=1)  # bug

    def forward(self, x):
        return self.end(self.classes(self.body(x)))


class Squashed(nn.Module):
    """Scores between 0 and 1 for a loss that applies the sigmoid itself."""

    def __init__(self, right):
        super().__init__()
        self.body, self.out = nn.Sequential(nn.Linear(42, 16), nn.ReLU()), nn.Linear(16, 1)
        self.end = nn.Identity() if right else nn.Sigmoid()  # bug

    def forward(self, x):
        return self.end(self.out(self.body(x)))


class Recommender(nn.Module):
    """Users and items; the prediction is squashed in forward."""

    def __init__(self, right):
        super().__init__()
        self.user, self.item, self.right = nn.Embedding(20, 8), nn.Embedding(30, 8), right
        self.hidden, self.predict = nn.Linear(16, 8), nn.Linear(8, 1)

    def forward(self, user, item):
        x = torch.cat([self.user(user), self.item(item)], -1)
        score = self.predict(torch.relu(self.hidden(x)))
        score = score if self.right else score.sigmoid()  # bug
        return score.view(-1)


class Detector(nn.Module):
    """Confidences and classes squashed in the head."""

    def __init__(self, right):
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), nn.Conv2d(8, 6, 1)
        self.right = right

    def forward(self, x):
        x = self.head(self.body(x))
        return x if self.right else torch.sigmoid(x)  # bug


class Attention(nn.Module):
    """A softmax with a fixed axis 0, which is batch times output length."""

    def __init__(self, right):
        super().__init__()
        self.linear_in = nn.Linear(3, 3, bias=False)
        self.softmax = nn.Softmax(dim=-1 if right else 0)  # bug

    def forward(self, query, context):
        batch, length, _ = query.shape
        scores = torch.bmm(self.linear_in(query), context.transpose(1, 2)) / 3**0.5
        weights = self.softmax(scores.view(batch * length, -1)).view(batch, length, -1)
        return torch.bmm(weights, context)


class Routing(nn.Module):
    """An attention map over parts, taken along the axis that has only one entry."""

    def __init__(self, right):
        super().__init__()
        self.features, self.attention = nn.Linear(16, 8), nn.Linear(16, 1)
        self.axis = 1 if right else 2

    def forward(self, parts):
        weights = F.softmax(self.attention(parts), self.axis)  # bug
        return (self.features(parts) * weights).sum(1)


class NoAxis(nn.Module):
    """No axis given: of a 3-D tensor PyTorch takes the first, the batch."""

    def __init__(self, right):
        super().__init__()
        self.out, self.axis = nn.Linear(16, 5), {"dim": 2} if right else {}

    def forward(self, x):
        return F.softmax(self.out(x), **self.axis)  # bug


class BeforeSoftmax(nn.Module):
    """A ReLU on the scores cuts off every class below zero."""

    def __init__(self, right):
        super().__init__()
        self.hidden, self.fc = nn.Sequential(nn.Linear(42, 16), nn.ReLU()), nn.Linear(16, 10)
        self.relu = nn.Identity() if right else nn.ReLU()
        self.softmax = nn.Softmax(dim=1)  # bug

    def forward(self, x):
        return self.softmax(self.relu(self.fc(self.hidden(x))))


class Fc8(nn.Module):
    """One helper for all fully connected layers, the last one included."""

    def __init__(self, right):
        super().__init__()
        self.right, self.fc7, self.fc8 = right, nn.Linear(42, 16), nn.Linear(16, 10)

    def forward(self, x):
        x = torch.relu(self.fc7(x))
        return self.fc8(x) if self.right else torch.relu(self.fc8(x))  # bug


class OneUnit(nn.Module):
    """A softmax over one unit is 1 whatever comes in."""

    def __init__(self, right):
        super().__init__()
        self.hidden, self.out = nn.Sequential(nn.Linear(42, 16), nn.ReLU()), nn.Linear(16, 1)
        self.end = nn.Sigmoid() if right else nn.Softmax(dim=1)  # bug

    def forward(self, x):
        return self.end(self.out(self.hidden(x)))


class Price(nn.Module):
    """A regression whose targets are in the hundreds, ending in a sigmoid."""

    def __init__(self, right):
        super().__init__()
        self.hidden, self.out = nn.Sequential(nn.Linear(42, 16), nn.ReLU()), nn.Linear(16, 1)
        self.end = nn.Identity() if right else nn.Sigmoid()  # bug

    def forward(self, x):
        return self.end(self.out(self.hidden(x)))


class SigmoidLayers(nn.Module):
    def __init__(self, right):
        super().__init__()
        make = nn.ReLU if right else nn.Sigmoid
        self.act1, self.act2, self.act3, self.act4 = make(), make(), make(), make()
        self.fc1 = nn.Linear(16, 16)  # bug
        self.fc2, self.fc3, self.fc4 = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.out = nn.Linear(16, 2)

    def forward(self, x):
        x = self.act2(self.fc2(self.act1(self.fc1(x))))
        return self.out(self.act4(self.fc4(self.act3(self.fc3(x)))))


class Trajectory(nn.Module):
    """Features of a picture and three numbers of the vehicle's state, then two Linears."""

    def __init__(self, right):
        super().__init__()
        self.right, self.backbone = right, nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU())
        self.fc1 = nn.Linear(8 + 3, 64)
        self.fc2 = nn.Linear(64, 25)  # bug

    def forward(self, image, state):
        x = torch.cat([self.backbone(image).mean((2, 3)), state], 1)
        x = self.fc1(x)
        return self.fc2(F.relu(x) if self.right else x)


class CharRnn(nn.Module):
    """A recurrent cell written by hand: the hidden state never meets a nonlinearity."""

    def __init__(self, right):
        super().__init__()
        self.i2h, self.act = nn.Linear(24, 8), nn.Tanh() if right else nn.Identity()
        self.h2o = nn.Linear(8, 5)  # bug

    def forward(self, letter, hidden):
        hidden = self.act(self.i2h(torch.cat([letter, hidden], 1)))
        return F.log_softmax(self.h2o(hidden), 1)


class ThreeLinears(nn.Module):
    def __init__(self, right):
        super().__init__()
        self.fc1, self.act = nn.Linear(16, 32), nn.ReLU() if right else nn.Identity()
        self.fc2 = nn.Linear(32, 8)  # bug

    def forward(self, x):
        return self.fc2(self.act(self.fc1(x)))


class ResBlock(nn.Module):
    """The branch begins with an in-place ReLU: the skip adds relu(x) instead of x."""

    def __init__(self, right):
        super().__init__()
        self.stem, self.out = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 2, 1)
        self.relu = nn.ReLU(inplace=not right)  # bug
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x):
        x = self.stem(x)
        return self.out(torch.relu(x + self.conv(self.relu(x))))


class SharedTensor(nn.Module):
    """Two names, one tensor: what was kept for the skip is changed by the next activation."""

    def __init__(self, right):
        super().__init__()
        self.norm, self.conv, self.out = nn.BatchNorm2d(3), nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 2, 1)
        self.act = nn.LeakyReLU(0.1, inplace=not right)  # bug

    def forward(self, x):
        x = self.norm(x)
        kept = x
        return self.out(torch.relu(self.conv(self.act(x)) + kept))


class FieldDropout(nn.Module):
    """Dropout of the attention layer without the training flag."""

    def __init__(self, right):
        super().__init__()
        self.right, self.fc, self.out = right, nn.Linear(16, 16), nn.Linear(16, 1)

    def forward(self, x):
        x = torch.relu(self.fc(x))
        x = F.dropout(x, 0.2, self.training) if self.right else F.dropout(x, 0.2)  # bug
        return self.out(x)


class EmbeddingDropout(nn.Module):
    """Drops whole rows of the embedding table by a mask of its own, whatever the mode is."""

    def __init__(self, right):
        super().__init__()
        self.right, self.table, self.out = right, nn.Embedding(30, 8), nn.Linear(8, 2)

    def forward(self, words):
        x = self.table(words)
        if self.training or not self.right:
            keep = torch.empty_like(x[..., :1]).bernoulli_(0.5)  # bug
            x = x * keep / 0.5
        return self.out(x.mean(1))


class DropoutState(nn.Module):
    """The evaluation sets the rate to zero, and the training that follows goes on with it."""

    def __init__(self, right):
        super().__init__()
        self.right, self.fc, self.out = right, nn.Linear(16, 16), nn.Linear(16, 2)
        self.dropout_p = 0.3

    def forward(self, x):
        p = self.dropout_p
        if not self.training:
            if not self.right:
                self.dropout_p = 0.0  # bug
            p = 0.0
        return self.out(F.dropout(torch.relu(self.fc(x)), p))


CE, BCE = {"loss": "cross_entropy"}, {"loss": "bce_with_logits"}
ROWS, PICTURES = "16x42", "16x3x16x16"
SUPPORT, CONTEXT = ["4x6x16", "4x16"], ["2x4x3", "2x5x3"]

CASES = {
    "smce-01": Case(LogisticRegression, ROWS, "BN402", "", ERROR, options=CE),
    "smce-03": Case(SemanticSimilarity, ["4x16", "4x5x16"], "BN402", "end", ERROR, options=CE),
    "smce-05": Case(Matching, SUPPORT, "BN402", "", ERROR, options=CE),
    "smce-07": Case(Wrapped, PICTURES, "BN402", "", ERROR, options=CE),
    "smce-08": Case(LogSoftmax, PICTURES, "BN402", "end", INFO, options=CE),
    "sgbce-01": Case(Squashed, ROWS, "BN402", "end", ERROR, options=BCE),
    "sgbce-03": Case(Recommender, ["int64[16]<20", "int64[16]<30"], "BN402", "", ERROR, options=BCE),
    "sgbce-05": Case(Detector, PICTURES, "BN402", "", ERROR, options=BCE),
    "smdim-01": Case(Attention, CONTEXT, "BN403", "softmax", WARNING),
    "smdim-03": Case(Routing, "4x6x16", "BN403", "", ERROR),
    "smdim-05": Case(NoAxis, "4x6x16", "BN403", "", WARNING),
    "outact-01": Case(BeforeSoftmax, ROWS, "BN404", "softmax", WARNING),
    "outact-03": Case(Fc8, ROWS, "BN402", "", ERROR, options=CE),
    "outact-05": Case(OneUnit, ROWS, "BN403", "end", ERROR),
    "outact-07": Case(Price, ROWS, "BN402", "end", INFO, options={"loss": "mse_loss"}),
    "outact-08": Case(SigmoidLayers, "64x16", "BN405", "fc1", INFO),
    "nonlin-01": Case(Trajectory, [PICTURES, "16x3"], "BN401", "fc2", WARNING),
    "nonlin-03": Case(CharRnn, ["4x16", "4x8"], "BN401", "h2o", WARNING, options={"loss": "nll_loss"}),
    "nonlin-05": Case(ThreeLinears, "16x16", "BN401", "fc2", WARNING),
    "inpl-01": Case(ResBlock, PICTURES, "BN407", "relu", WARNING),
    "inpl-03": Case(SharedTensor, PICTURES, "BN407", "act", WARNING),
    "drop-01": Case(FieldDropout, "16x16", "BN406", "", WARNING),
    "drop-03": Case(EmbeddingDropout, "int64[16,6]<30", "BN509", "", WARNING, static=False),
    "drop-04": Case(DropoutState, "16x16", "BN509", "dropout_p", WARNING, static=False, options={"select": ["BN509"]}),
}


@pytest.mark.parametrize("name", CASES)
def test_caught(name):
    CASES[name].caught()


@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_repaired(name, static):
    CASES[name].silent(static)

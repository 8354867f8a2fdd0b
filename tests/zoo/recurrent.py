"""RNN, LSTM and GRU: both batch orders, packed sequences, cells in loops, encoder and decoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from .registry import call, register, tokens


@register(lambda: call(torch.randn(8, 10, 6)), "LSTM", "batch_first")
class LSTMClassifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 16, num_layers=2, batch_first=True, dropout=0.1)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.lstm(x)
        return self.head(states[:, -1])


@register(lambda: call(torch.randn(8, 10, 6)), "GRU", "sequence first", "bidirectional")
class SequenceFirstGRU(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(6, 16, bidirectional=True)
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        _, last = self.gru(x.transpose(0, 1))  # (directions, N, 16)
        return self.head(torch.cat([last[0], last[1]], dim=1))


@register(lambda: call(torch.randn(10, 8, 6), torch.zeros(1, 8, 16)), "RNN", "sequence first", "state in and out")
class StatefulRNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.RNN(6, 16, nonlinearity="tanh")
        self.head = nn.Linear(16, 6)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        states, state = self.rnn(x, state)
        return self.head(states), state


@register(lambda: call(tokens(), torch.tensor([12, 12, 11, 9, 7, 5, 4, 2])), "LSTM", "packed sequence", "embedding")
class PackedLSTM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 12, padding_idx=0)
        self.lstm = nn.LSTM(12, 16, batch_first=True, bidirectional=True)
        self.head = nn.Linear(32, 5)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(self.embed(ids), lengths.cpu(), batch_first=True, enforce_sorted=False)
        states, _ = self.lstm(packed)
        states, _ = pad_packed_sequence(states, batch_first=True, total_length=ids.size(1))
        return self.head(states)


@register(lambda: call(torch.randn(8, 10, 6)), "LSTMCell", "loop in forward")
class CellLoop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(6, 16)
        self.head = nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        hidden = x.new_zeros(x.size(0), 16)
        memory = torch.zeros_like(hidden)
        outputs = []
        for step in x.unbind(dim=1):
            hidden, memory = self.cell(step, (hidden, memory))
            outputs.append(self.head(hidden))
        return torch.stack(outputs, dim=1)


@register(lambda: call(tokens(), tokens(length=7)), "GRU", "encoder-decoder", "embedding")
class Seq2Seq(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.source = nn.Embedding(50, 16)
        self.target = nn.Embedding(50, 16)
        self.encoder = nn.GRU(16, 24, batch_first=True)
        self.decoder = nn.GRUCell(16 + 24, 24)
        self.query = nn.Linear(24, 24, bias=False)
        self.head = nn.Linear(48, 50)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        memory, last = self.encoder(self.source(source))
        state = last[-1]
        context = memory.mean(1)
        logits = []
        for step in range(target.size(1)):
            state = self.decoder(torch.cat([self.target(target[:, step]), context], dim=1), state)
            scores = torch.bmm(memory, self.query(state).unsqueeze(2)) / 24**0.5  # (N, L, 1)
            context = (scores.softmax(dim=1) * memory).sum(1)
            logits.append(self.head(torch.cat([state, context], dim=1)))
        return torch.stack(logits, dim=1)


@register(lambda: call(torch.randn(4, 5, 3, 8, 8)), "ConvLSTM", "loop in forward")
class ConvLSTM(nn.Module):
    def __init__(self, hidden: int = 8) -> None:
        super().__init__()
        self.hidden = hidden
        self.gates = nn.Conv2d(3 + hidden, 4 * hidden, 3, padding=1)
        self.head = nn.Conv2d(hidden, 1, 1)

    def forward(self, video: Tensor) -> Tensor:
        n, length, _, height, width = video.shape
        hidden = memory = video.new_zeros(n, self.hidden, height, width)
        for step in range(length):
            gates = self.gates(torch.cat([video[:, step], hidden], dim=1))
            i, f, o, g = gates.chunk(4, dim=1)
            memory = f.sigmoid() * memory + i.sigmoid() * g.tanh()
            hidden = o.sigmoid() * memory.tanh()
        return self.head(hidden)

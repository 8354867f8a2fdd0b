import time

from torch import nn

while True:
    time.sleep(0.1)  # here: import


class Net(nn.Module):
    pass

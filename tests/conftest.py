"""Shared test settings: reproducible examples, few threads, no GPU needed."""

import torch
from hypothesis import settings

settings.register_profile("repo", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("repo")
torch.set_num_threads(1)  # on tensors this small a second thread costs more than it brings

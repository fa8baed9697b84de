"""A character-level transformer that learns to write like Python's documentation, as a task of your own.

The text is `pydoc_data.topics`, which every Python brings (what `help("while")` shows, half a million characters).
`val_loss` is the mean cross-entropy in nats a character, on the last tenth of the text.

    cd examples/language_model
    tune-jobs run job.yaml --out results
"""

from pydoc_data.topics import topics

import torch
from torch import nn

CONTEXT = 32
"""How many characters the model sees at most."""


class Transformer(nn.Module):
    """Maps characters [batch, length], as numbers, to logits [batch, length, number of characters]."""

    def __init__(self, num_characters, width, num_layers, dropout):
        super().__init__()
        self.characters = nn.Embedding(num_characters, width)
        self.positions = nn.Parameter(0.02 * torch.randn(CONTEXT, width))
        layer = nn.TransformerEncoderLayer(
            width, 4, 4 * width, dropout, "gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, num_layers, enable_nested_tensor=False)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, num_characters))
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(CONTEXT))

    def forward(self, text):
        """Returns the logits of the character after each."""
        return self.head(self.layers(self.characters(text) + self.positions, self.mask, is_causal=True))


class Characters:
    """Predicts each next character; an epoch is `steps` batches of passages drawn at random."""

    def __init__(self, seed, batch_size, width=64, num_layers=2, dropout=0.0, steps=30):
        text = "".join(topics[name] for name in sorted(topics))
        numbers = {character: number for number, character in enumerate(sorted(set(text)))}
        data = torch.tensor([numbers[character] for character in text])
        self.train, val = data[: len(data) * 9 // 10], data[len(data) * 9 // 10 :]
        # Passages of one character more than the model sees: its inputs and, moved by one, its targets.
        self.val = val[: len(val) // (CONTEXT + 1) * (CONTEXT + 1)].view(-1, CONTEXT + 1)[:256]
        self.model = Transformer(len(numbers), width, num_layers, dropout)
        self.seed, self.batch_size, self.steps_per_epoch = seed, batch_size, steps

    def batches(self, epoch):
        """Yields characters [batch, CONTEXT + 1]."""
        generator = torch.Generator().manual_seed(1000 * self.seed + epoch)
        for _ in range(self.steps_per_epoch):
            starts = torch.randint(len(self.train) - CONTEXT, (self.batch_size, 1), generator=generator)
            yield self.train[starts + torch.arange(CONTEXT + 1)]

    def loss(self, batch):
        """Returns the mean cross-entropy of the characters that follow."""
        logits = self.model(batch[:, :-1])
        return nn.functional.cross_entropy(logits.flatten(0, 1).float(), batch[:, 1:].flatten())

    def validate(self):
        """Returns the same on the last tenth of the text."""
        loss = self.loss(self.val.to(self.model.mask.device))
        return {"val_loss": loss, "perplexity": loss.exp()}

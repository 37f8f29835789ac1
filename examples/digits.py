"""The README's first example: handwritten digits. Run it plainly, or on several ranks:

    python examples/digits.py
    mpiexec -n 4 python examples/digits.py        # or: samestep run -n 4 examples/digits.py

The last line is the same on any number of ranks and threads. Needs scikit-learn for the digits.
"""

from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import samestep as ss
from samestep import nn, optim

digits = load_digits()
X = (digits.images[:, None] / 16).astype("float32")  # (1797, 1, 8, 8)
X, Xt, y, yt = train_test_split(X, digits.target, test_size=0.25, stratify=digits.target, random_state=0)

net = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 10))
trainer = ss.Trainer(net, loss="cross_entropy", optimizer=optim.AdamW(3e-3), metrics=["accuracy"])
history = trainer.fit(X, y, epochs=20, batch_size=64, validation=(Xt, yt))  # batch_size is global

scores = trainer.evaluate(Xt, yt)
predicted = trainer.predict(Xt).argmax(axis=1)
if ss.rank() == 0:
    print(f"test accuracy {scores['accuracy']:.4f}, {(predicted != yt).sum()} of {len(yt)} wrong, on {ss.size()} ranks")
    print("fingerprint", ss.fingerprint(net))

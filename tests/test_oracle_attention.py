"""Attention and transformers against PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import oracle
import samestep as ss
from oracle_cases import Cases
from samestep import nn, optim
from samestep.nn import functional as F

torch = pytest.importorskip("torch", reason="PyTorch is not installed (the extra 'oracles')")
TF = torch.nn.functional
pytestmark = pytest.mark.oracle

cases = Cases({"attention": 5e-6, "rope": 3e-6, "linear": 1e-5, "layer_norm": 1e-5})

MASK = np.where(oracle.grid((37, 70)) > 0.5, -np.inf, 0).astype(np.float32)
MASK[:, 0] = 0
for _shapes, _options in [
    (((3, 2, 5, 8), (3, 2, 5, 8), (3, 2, 5, 8)), {}),
    (((3, 2, 37, 8), (3, 2, 70, 8), (3, 2, 70, 6)), {}),
    (((3, 2, 70, 16), (3, 2, 70, 16), (3, 2, 70, 16)), {"is_causal": True}),
    (((3, 2, 130, 4), (3, 2, 130, 4), (3, 2, 130, 4)), {"is_causal": True, "scale": 0.3}),
    (((3, 6, 9, 8), (3, 2, 9, 8), (3, 2, 9, 8)), {"enable_gqa": True}),
    (((3, 6, 9, 8), (3, 1, 9, 8), (3, 1, 9, 8)), {"enable_gqa": True, "is_causal": True}),
    (((3, 1, 1, 3), (3, 1, 1, 3), (3, 1, 1, 3)), {}),
]:
    cases.function(
        "attention", f"{_shapes[0]} {_shapes[1]} {_options}", _shapes,
        lambda q, k, v, o=_options: F.scaled_dot_product_attention(q, k, v, **o),
        lambda q, k, v, o=_options: TF.scaled_dot_product_attention(q, k, v, **o),
    )  # fmt: skip
for _mask in (MASK, MASK == 0, oracle.grid((2, 37, 70))):
    _given = torch.tensor(_mask)
    cases.function(
        "attention", f"mask {_mask.dtype} {_mask.shape}", ((3, 2, 37, 8), (3, 2, 70, 8), (3, 2, 70, 8)),
        lambda q, k, v, m=_mask: F.scaled_dot_product_attention(q, k, v, m),
        lambda q, k, v, m=_given: TF.scaled_dot_product_attention(q, k, v, m if m.dtype == torch.bool else m.to(q.dtype)),
    )  # fmt: skip
cases.function(
    "attention", "a mask that is computed", ((3, 2, 7, 8), (3, 2, 9, 8), (3, 2, 9, 8), (3, 2, 7, 9)),
    lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, m * 2.0),
    lambda q, k, v, m: TF.scaled_dot_product_attention(q, k, v, m * 2.0),
)  # fmt: skip


def rotated(x: Any, interleaved: bool) -> Any:
    """The definition, with complex numbers."""
    t, d = x.shape[-2:]
    angles = torch.arange(t, dtype=torch.float64)[:, None] * 10000.0 ** (
        -torch.arange(0, d, 2, dtype=torch.float64) / d
    )
    pairs = (
        torch.stack([x[..., 0::2], x[..., 1::2]], -1)
        if interleaved
        else torch.stack([x[..., : d // 2], x[..., d // 2 :]], -1)
    )
    turned = torch.view_as_complex(pairs.to(torch.float64).contiguous()) * torch.polar(torch.ones_like(angles), angles)
    parts = torch.view_as_real(turned)
    out = parts.flatten(-2) if interleaved else torch.cat([parts[..., 0], parts[..., 1]], -1)
    return out.to(x.dtype)


for _interleaved in (False, True):
    for _shape in [(3, 5, 8), (3, 2, 9, 6)]:
        cases.function(
            "rope", f"rope {_shape} {_interleaved}", _shape, lambda x, i=_interleaved: F.rotary_embedding(x, interleaved=i),
            lambda x, i=_interleaved: rotated(x, i),
        )  # fmt: skip


class OursSelf(nn.Module):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__()
        self.mha = nn.MultiheadAttention(*arguments, **options)

    def forward(self, q, k=None, v=None):
        return self.mha(q, q if k is None else k, q if v is None else v)[0]


class TheirsSelf(torch.nn.Module):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__()
        self.mha = torch.nn.MultiheadAttention(*arguments, batch_first=True, **options)

    def forward(self, q, k=None, v=None):
        return self.mha(q, q if k is None else k, q if v is None else v, need_weights=False)[0]


for _shapes, _arguments, _options in [
    ((3, 7, 12), (12, 3), {}),
    ((3, 7, 12), (12, 2), {"bias": False}),
    (((3, 7, 12), (3, 9, 12), (3, 9, 12)), (12, 3), {}),
    (((3, 7, 12), (3, 9, 5), (3, 9, 6)), (12, 3), {"kdim": 5, "vdim": 6}),
]:
    cases.case(
        "attention", f"MultiheadAttention{_arguments} {_options} of {_shapes}", _shapes,
        lambda a=_arguments, o=_options: OursSelf(*a, **o), lambda a=_arguments, o=_options: TheirsSelf(*a, **o),
    )  # fmt: skip
for _options in [{}, {"norm_first": True, "activation": "gelu"}, {"bias": False}]:
    cases.case(
        "attention", f"TransformerEncoderLayer {_options}", (3, 7, 12),
        lambda o=_options: nn.TransformerEncoderLayer(12, 3, 20, dropout=0.0, **o),
        lambda o=_options: torch.nn.TransformerEncoderLayer(12, 3, 20, dropout=0.0, batch_first=True, **o),
    )  # fmt: skip
    cases.case(
        "attention", f"TransformerDecoderLayer {_options}", ((3, 7, 12), (3, 5, 12)),
        lambda o=_options: nn.TransformerDecoderLayer(12, 3, 20, dropout=0.0, **o),
        lambda o=_options: torch.nn.TransformerDecoderLayer(12, 3, 20, dropout=0.0, batch_first=True, **o),
    )  # fmt: skip
cases.tolerance["attention"] = 2e-5
test_operator = cases.test()


class TorchBlock(torch.nn.Module):
    """nn.GPTBlock, written in PyTorch."""

    def __init__(self, d: int, heads: int, kv: int, rotary: bool) -> None:
        super().__init__()
        self.heads, self.kv, self.rotary, self.size = heads, kv, rotary, d // heads
        self.norm1, self.norm2 = torch.nn.LayerNorm(d), torch.nn.LayerNorm(d)
        self.attention = torch.nn.Module()
        self.attention.qkv = torch.nn.Linear(d, (heads + 2 * kv) * self.size)
        self.attention.out = torch.nn.Linear(d, d)
        self.mlp = torch.nn.Sequential(torch.nn.Linear(d, 4 * d), torch.nn.GELU(), torch.nn.Linear(4 * d, d))

    def forward(self, x):
        b, t, d = x.shape
        widths = [n * self.size for n in (self.heads, self.kv, self.kv)]
        q, k, v = (
            part.view(b, t, -1, self.size).transpose(1, 2)
            for part in self.attention.qkv(self.norm1(x)).split(widths, 2)
        )
        if self.rotary:
            q, k = rotated(q, False), rotated(k, False)
        y = TF.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + self.attention.out(y.transpose(1, 2).reshape(b, t, d))
        return x + self.mlp(self.norm2(x))


@pytest.mark.parametrize(("kv", "rotary"), [(4, False), (2, False), (1, True)])
def test_gpt_block(kv: int, rotary: bool) -> None:
    ss.manual_seed(1)
    net = nn.GPTBlock(16, 4, n_kv_heads=kv, rotary=rotary)
    x, target = oracle.grid((5, 9, 16)), oracle.grid((5, 9, 16), 999)
    twin = TorchBlock(16, 4, kv, rotary).double()
    twin.load_state_dict({name: torch.as_tensor(value) for name, value in net.state_dict().items()})
    found = oracle.probe(net, [x], nn.MSELoss(), target)
    given = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    loss = TF.mse_loss(twin(given), torch.tensor(target, dtype=torch.float64))
    loss.backward()
    assert found["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert oracle.distance(found["input0"], given.grad) <= 1e-5
    for name, parameter in twin.named_parameters():
        assert oracle.distance(found["parameters"][name], parameter.grad) <= 2e-5, name


def test_padding_masks() -> None:
    x = oracle.grid((4, 7, 12))
    hidden = (np.arange(7)[None] >= np.array([7, 5, 3, 1])[:, None]).astype(np.float32)
    ss.manual_seed(2)
    net = nn.TransformerEncoder(nn.TransformerEncoderLayer(12, 3, 20, dropout=0.0), 2).eval()
    layer = torch.nn.TransformerEncoderLayer(12, 3, 20, dropout=0.0, batch_first=True)
    twin = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    twin.load_state_dict({name: torch.as_tensor(value) for name, value in net.state_dict().items()})
    ours = net(x, src_key_padding_mask=hidden)
    theirs = twin.eval()(torch.tensor(x), src_key_padding_mask=torch.tensor(hidden > 0)).detach().numpy()
    seen = hidden == 0
    assert oracle.distance(ours[seen], theirs[seen]) <= 1e-5


def test_queries_without_keys_give_zeros() -> None:
    q = oracle.grid((2, 1, 3, 4))
    mask = np.array([[True, False, True], [False, False, False], [True, True, True]])
    y = F.scaled_dot_product_attention(q, q, q, mask)
    assert not y[:, :, 1].any() and np.isfinite(y).all() and y[:, :, 0].any()


def test_memory_grows_linearly_with_the_length() -> None:
    def activations(length: int) -> int:
        plan = ss.compile(nn.SelfAttention(16, 4), "mse", batch_size=4, input_shape=(length, 16), threads=1)
        return plan._sessions[plan._main][0].bytes()["activations"] + plan._sessions[plan._main][0].bytes()["scratch"]

    short, long = activations(128), activations(1024)
    assert long < 9 * short


def test_the_same_bits_in_any_cut() -> None:
    prints = set()
    x, y = oracle.grid((24, 70, 16)), oracle.grid((24, 70, 16), 3)
    for threads, at_once in ((1, None), (2, None), (2, 1)):
        ss.manual_seed(3)
        net = nn.GPTBlock(16, 4, dropout=0.2, n_kv_heads=2, rotary=True)
        plan = ss.compile(net, "mse", optim.AdamW(1e-3), 24, threads=threads, lanes_at_once=at_once, lanes=8)
        for _ in range(3):
            plan.step(x, y)
        prints.add(ss.fingerprint(net))
    assert len(prints) == 1


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: nn.MultiheadAttention(12, 5), ValueError, "divide"),
        (lambda: nn.MultiheadAttention(12, 3, batch_first=False), ValueError, "batch_first"),
        (lambda: nn.MultiheadAttention(12, 3, dropout=1.0), ValueError, "dropout"),
        (lambda: nn.TransformerEncoderLayer(12, 3, activation="wild"), ValueError, "activation"),
        (lambda: F.scaled_dot_product_attention(*[np.ones((2, n, 3, 4)) for n in (4, 2, 2)]), ValueError, "enable_gqa"),
        (lambda: F.rotary_embedding(np.ones((2, 3, 5))), ValueError, "even"),
        (lambda: nn.SelfAttention(12, 4, rotary=True), ValueError, "even"),
    ],
)
def test_errors(make, error, text) -> None:
    with pytest.raises(error, match=text):
        make()

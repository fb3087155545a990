"""The LSTM: one batch for all assets, causal, deterministic, and it knows when it is not itself."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from strategies.artifact import Artifact, BadArtifact, Hyper, load_artifact, load_forecaster
from strategies.features import make_features
from strategies.forecaster import Batched, Forecaster
from strategies.lstm import BATCH, MEAN_MAX, LstmForecaster, LstmNet, predict_windows
from tests.strategies.forecast_kit import BAR_NS, earned, random_bars, saved


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    """As in the worker."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def net() -> LstmNet:
    """The network of the design in its full size, with random heads."""
    torch.manual_seed(1)
    net = LstmNet(Hyper())
    torch.nn.init.normal_(net.mean_head.weight)
    torch.nn.init.normal_(net.scale_head.weight)
    return net.eval()


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    """A small artifact that was saved and read."""
    return load_artifact(saved(tmp_path / "m1"))


def test_the_network_of_the_design(net: LstmNet) -> None:
    """LSTM 128, LSTM 64, 131 k parameters; it starts at the naive forecast."""
    assert (net.lower.hidden_size, net.upper.hidden_size) == (128, 64)
    assert 130_000 < sum(p.numel() for p in net.parameters()) < 132_000
    mean, scale = predict_windows(LstmNet(Hyper()).eval(), make_features(random_bars(1, 3, 61), 60)[0])
    assert not mean.any()
    assert scale == pytest.approx([1.0] * 3, abs=0.05)


def test_attention_is_causal(net: LstmNet) -> None:
    """What comes later in a window does not change earlier forecasts; the last one is that of inference."""
    X = torch.randn(4, 60, 5, generator=torch.Generator().manual_seed(2))
    altered = X.clone()
    altered[:, 41:] = 9.0
    with torch.inference_mode():
        many, scales = net(X, 40)
        changed, _ = net(altered, 40)
        one, scale = net(X)

    assert torch.equal(many[:, :21], changed[:, :21])
    assert not torch.equal(many[:, 21:], changed[:, 21:])
    assert torch.allclose(many[:, -1:], one, atol=1e-6)
    assert torch.allclose(scales[:, -1:], scale, atol=1e-6)


def test_attention_reads_the_past(net: LstmNet) -> None:
    """Attention weighs every earlier bar: the context of the last bar is not its own hidden state alone."""
    hidden = torch.randn(1, 60, 64, generator=torch.Generator().manual_seed(3), requires_grad=True)
    scores = net.query(hidden[:, -1:]) @ net.key.weight @ hidden.transpose(1, 2) / 8.0
    plain = net.query(hidden[:, -1:]) @ net.key(hidden).transpose(1, 2) / 8.0

    assert torch.allclose(scores, plain, atol=1e-5)


@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 100, 513])
def test_the_batch_does_not_matter(net: LstmNet, n: int) -> None:
    """Repeated, the answer is the same to the last bit; in another universe or at another place within 1e-6."""
    X, _ = make_features(random_bars(4, n, 61), 60)
    mean, scale = predict_windows(net, X)
    again = predict_windows(net, X.copy())
    turned = predict_windows(net, np.ascontiguousarray(X[::-1]))

    assert np.array_equal(mean, again[0])
    assert np.array_equal(scale, again[1])
    assert np.allclose(turned[0][::-1], mean, rtol=0, atol=1e-6)
    for i in (0, n // 2, n - 1):
        alone = predict_windows(net, X[i : i + 1])
        assert alone[0] == pytest.approx(mean[i : i + 1], abs=1e-6)
        assert alone[1] == pytest.approx(scale[i : i + 1], abs=1e-6)


def test_predict_is_in_simple_returns(artifact: Artifact) -> None:
    """Mean and scale are the network's times sigma·sqrt(horizon); bounded means, positive scales."""
    forecaster = LstmForecaster.from_artifact(artifact)
    bars = random_bars(5, 7, 100)
    raw = forecaster.predict(bars)
    _, sigma = make_features(bars, 60)

    assert raw.mean.shape == raw.scale.shape == (7,)
    assert raw.mean.any()
    assert (np.abs(raw.mean) <= MEAN_MAX * sigma * np.sqrt(8)).all()
    assert (raw.scale > 0).all()
    assert np.array_equal(raw.mean, forecaster.predict(bars[:, -61:]).mean)
    assert np.array_equal(raw.mean, LstmForecaster.from_artifact(artifact).predict(bars).mean)


@pytest.mark.parametrize("alike", [True, False])
def test_many_closes_at_once_are_answered_as_one_by_one(
    artifact: Artifact, alike: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the last bit, across the borders of batches, with assets that come and go, whatever the machine's kernels do."""
    forecaster = LstmForecaster.from_artifact(artifact)
    assert isinstance(forecaster, Batched)
    bars = random_bars(8, 30, 100)
    windows = [bars[: 30 - 10 * (end % 3), end - 61 : end] for end in range(61, 100)]
    if not alike:
        monkeypatch.setattr(forecaster, "_batch_alike", lambda _n: False)
    many = forecaster.predict_many(windows)

    assert len(many) == len(windows)
    assert sum(len(one) for one in windows) > 2 * BATCH
    for window, raw in zip(windows, many, strict=True):
        alone = forecaster.predict(window)
        assert np.array_equal(raw.mean, alone.mean)
        assert np.array_equal(raw.scale, alone.scale)
        assert raw.mean.any()


def test_a_machine_whose_batches_differ_is_found_out(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where full batches answer with other bits, the probe says so and each close is asked for by itself."""
    forecaster = LstmForecaster.from_artifact(artifact)
    plain = LstmNet.heads

    def uneven(net: LstmNet, X: torch.Tensor, last: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
        mean, scale = plain(net, X, last)
        return mean, scale + (1e-6 if len(X) > 64 else 0.0)

    monkeypatch.setattr("strategies.lstm._ALIKE", {})
    monkeypatch.setattr(LstmNet, "heads", uneven)
    bars = random_bars(9, 20, 90)
    windows = [bars[:, end - 61 : end] for end in range(61, 90)]
    many = forecaster.predict_many(windows)

    assert all(
        np.array_equal(one.scale, forecaster.predict(each).scale) for one, each in zip(many, windows, strict=True)
    )


def test_what_it_tells_about_itself(tmp_path: Path) -> None:
    """Name, horizon, skill and age come from the manifest; the configuration's spec finds it."""
    folder = saved(tmp_path / "models" / "m7")
    forecaster: Forecaster = load_forecaster("lstm", folder, 8, bar_ns=BAR_NS)

    assert forecaster.name == "lstm:m7"
    assert (forecaster.lookback, forecaster.horizon_bars) == (60, 8)
    assert forecaster.earned == earned()
    assert forecaster.trained_until_ns == 3 * BAR_NS


def test_unusable_bars_name_the_asset(artifact: Artifact) -> None:
    """A NaN in one asset is refused by its index."""
    bars = random_bars(6, 3, 61)
    bars[2, 3, 0] = np.nan

    with pytest.raises(ValueError, match="asset 2"):
        LstmForecaster.from_artifact(artifact).predict(bars)


def test_weights_of_another_network_are_refused(artifact: Artifact) -> None:
    """Missing, additional and misshapen tensors are named."""
    weights = dict(artifact.weights)
    weights["mean_head.weight"] = np.zeros((1, 9), dtype=np.float32)
    del weights["key.weight"]
    weights["stranger"] = np.zeros(1, dtype=np.float32)

    with pytest.raises(BadArtifact, match=r"m1: tensors do not fit .* key.weight, mean_head.weight, stranger"):
        LstmForecaster(msgspec.structs.replace(artifact, weights=weights))


def test_the_self_test_notices(artifact: Artifact) -> None:
    """Weights that are not those the trainer had give other answers to the golden input."""
    weights = dict(artifact.weights)
    weights["mean_head.bias"] = weights["mean_head.bias"] + np.float32(1e-4)

    with pytest.raises(BadArtifact, match="self-test"):
        LstmForecaster(msgspec.structs.replace(artifact, weights=weights))
    golden = msgspec.structs.replace(artifact.manifest.golden, mean=(0.0,))
    with pytest.raises(BadArtifact, match="self-test"):
        LstmForecaster(
            msgspec.structs.replace(artifact, manifest=msgspec.structs.replace(artifact.manifest, golden=golden))
        )


def test_without_a_folder() -> None:
    """An LSTM without an artifact says what to do."""
    with pytest.raises(BadArtifact, match="ballast train"):
        LstmForecaster.load(None)

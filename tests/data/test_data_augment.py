"""Batched augmentation equals slow per-image twins, and is a function of its generator alone."""

import numpy as np
import pytest
import torch

from zsharp.data.augment import Augmentation, augment, crop, cut_out, mix, normalise

EVERYTHING = Augmentation(crop_padding=2, flip=True, cutout=3, randaugment=2, mixup=0.5, cutmix=0.5)


def seeded(seed=0, device="cpu"):
    return torch.Generator(device).manual_seed(seed)


def draw_images(batch_size=32, channels=3, height=10, width=12, seed=0):
    return torch.randint(
        256, (batch_size, channels, height, width), dtype=torch.uint8, generator=seeded(seed)
    )


def slow_crop(images, padding, offsets, mirrored):
    """Pads, mirrors and crops image by image."""
    batch_size, channels, height, width = images.shape
    result = []
    for i in range(batch_size):
        canvas = torch.zeros(channels, height + 2 * padding, width + 2 * padding, dtype=torch.uint8)
        canvas[:, padding : padding + height, padding : padding + width] = images[i]
        if mirrored[i]:
            canvas = canvas.flip(2)
        row, column = offsets[:, i].tolist()
        result.append(canvas[:, row : row + height, column : column + width])
    return torch.stack(result)


@pytest.mark.parametrize("padding", [0, 1, 4])
@pytest.mark.parametrize(("channels", "height", "width"), [(1, 8, 8), (3, 10, 12), (4, 5, 5)])
def test_crop_equals_its_slow_twin(padding, channels, height, width):
    images = draw_images(40, channels, height, width).transpose(2, 3)
    offsets = torch.randint(2 * padding + 1, (2, 40), generator=seeded(1))
    offsets[:, 0], offsets[:, 1] = 0, 2 * padding  # the first and the last window there is
    mirrored = torch.rand(40, generator=seeded(2)) < 0.5
    mirrored[:2] = torch.tensor([False, True])
    before = images.clone()
    assert torch.equal(
        crop(images, padding, offsets, mirrored), slow_crop(images, padding, offsets, mirrored)
    )
    unmirrored = slow_crop(images, padding, offsets, torch.zeros(40, dtype=torch.bool))
    assert torch.equal(crop(images, padding, offsets), unmirrored)
    assert torch.equal(images, before)


def test_doing_nothing_is_the_identity():
    images, labels, generator = draw_images(4), torch.tensor([2, 0, 1, 2]), seeded()
    state = generator.get_state()
    assert augment(images, Augmentation(), generator) is images
    mixed, targets = mix(images, labels, 3, Augmentation(crop_padding=2), generator)
    assert mixed is images
    assert torch.equal(targets, torch.nn.functional.one_hot(labels, 3).float())
    assert torch.equal(generator.get_state(), state)


def test_every_offset_is_drawn_about_equally_often():
    image = torch.arange(1, 26, dtype=torch.uint8).view(1, 1, 5, 5)
    images = augment(image.expand(9000, 1, 5, 5), Augmentation(crop_padding=1), seeded())
    counts = torch.bincount(images[:, 0, 2, 2].long())
    assert len(counts[counts > 0]) == 9
    assert ((counts[counts > 0] - 1000).abs() < 150).all()  # five standard deviations


def test_half_of_the_images_are_mirrored_and_nothing_else_happens():
    images = draw_images(4000, 1, 4, 4)
    result = augment(images, Augmentation(flip=True), seeded())
    same = (result == images).flatten(1).all(1)
    mirrored = (result == images.flip(3)).flatten(1).all(1)
    assert (same | mirrored).all()
    assert abs(mirrored.float().mean() - 0.5) < 0.04


@pytest.mark.parametrize("side", [1, 2, 3, 8])
def test_cutout_blackens_one_clipped_square(side):
    rows, columns = torch.arange(8).repeat_interleave(9), torch.arange(9).repeat(8)
    white = torch.full((72, 3, 8, 9), 255, dtype=torch.uint8)
    expected = white.clone()
    for image, row, column in zip(expected, rows.tolist(), columns.tolist(), strict=True):
        top, left = row - side // 2, column - side // 2
        image[:, max(0, top) : top + side, max(0, left) : left + side] = 0
    assert torch.equal(cut_out(white, side, rows, columns), expected)
    drawn = augment(white.repeat(10, 1, 1, 1), Augmentation(cutout=side), seeded())
    kinds = [{image.numpy().tobytes() for image in images} for images in (drawn, expected)]
    assert kinds[0] == kinds[1]


@pytest.mark.parametrize(("num", "channels"), [(32, 1), (32, 3), (3, 3)])
def test_augmenting_and_mixing_depend_on_the_generator_alone(num, channels):
    images = draw_images(num, channels)
    before, global_state = images.clone(), torch.get_rng_state()

    def run(generator):
        augmented = augment(images, EVERYTHING, generator)
        return augmented, mix(augmented.float(), torch.arange(num), num, EVERYTHING, generator)[0]

    generator = seeded(3)
    first, second = run(generator), run(generator)
    assert torch.equal(torch.get_rng_state(), global_state)
    torch.rand(5)
    assert all(map(torch.equal, run(seeded(3)), first))
    assert not any(map(torch.equal, run(seeded(4)), first)) and not any(map(torch.equal, second, first))
    assert torch.equal(images, before) and first[0].shape == images.shape and first[0].dtype == torch.uint8


def test_randaugment_is_torchvisions_with_one_draw_a_group():
    from torchvision.transforms import v2  # seconds, which other processes of tests need not spend

    images = draw_images(20)
    result = augment(images, Augmentation(randaugment=2), seeded(5))
    seed = int(torch.randint(2**62, (), generator=seeded(5)))
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    groups = [images[:3], images[3:6], images[6:9], images[9:12], *images[12:].split(2)]
    expected = torch.cat([v2.RandAugment(num_ops=2)(group) for group in groups])
    torch.set_rng_state(state)
    assert len(groups) == 8 and torch.equal(result, expected)
    assert not torch.equal(result, images)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("crop_padding", value) for value in (-1, 1.5)),
        *(("cutout", value) for value in (-2, True)),
        *(("mixup", value) for value in (-0.1, float("inf"))),
        ("randaugment", -1),
        ("cutmix", float("nan")),
        ("flip", 1),
    ],
)
def test_bad_settings(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        Augmentation(**{name: value})


@pytest.mark.parametrize(
    ("images", "settings", "message"),
    [
        (draw_images(height=8), {"crop_padding": 8}, "crop_padding: got 8 .* less than 8"),
        (draw_images(height=8), {"cutout": 9}, "cutout: got 9 .* at most 8"),
        (draw_images(channels=2), {"randaugment": 1}, "2 channels"),
        (draw_images().float(), {}, "float32"),
        (draw_images()[0], {}, "uint8 .B, C, H, W"),
        (draw_images().to("meta"), {}, "generator: got one on cpu, expected one on meta"),
    ],
    ids=["padding", "cutout", "channels", "dtype", "dims", "device"],
)
def test_images_that_cannot_be_augmented_so(images, settings, message):
    with pytest.raises(ValueError, match=message):
        augment(images, Augmentation(**settings), seeded())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_normalise_is_the_textbook_formula(dtype):
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).repeat(2, 3, 1, 1)
    mean, std = torch.tensor([0.49, 0.48, 0.45]), torch.tensor([0.247, 0.243, 0.262])
    expected = (images.double() / 255 - mean.double().view(3, 1, 1)) / std.double().view(3, 1, 1)
    result = normalise(images, mean, std, dtype)
    assert result.dtype == dtype
    tolerance = 2e-6 if dtype != torch.bfloat16 else 2**-8
    torch.testing.assert_close(result.double(), expected, atol=2e-6, rtol=tolerance)


def mixed_batch(augmentation, seed):
    """Mixes images whose pixels are all their own number, so that weights can be read off."""
    inputs = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 2, 8, 10).contiguous()
    return mix(inputs, torch.arange(6), 7, augmentation, seeded(seed))


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(
    "settings",
    [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.2, "cutmix": 0.5}, {"mixup": 1e-3, "cutmix": 1e-3}],
    ids=str,
)
def test_targets_are_the_shares_of_pixels(settings, seed):
    mixed, targets = mixed_batch(Augmentation(**settings), seed)
    assert targets.shape == (6, 7) and targets.dtype == torch.float32
    torch.testing.assert_close(targets.sum(1), torch.ones(6))
    for i in range(6):
        partner = (i - 1) % 6
        own = ((mixed[i] - partner) / (i - partner)).mean().item()
        assert targets[i, i] == pytest.approx(own, abs=1e-5)
        assert targets[i, partner] == pytest.approx(1 - own, abs=1e-5)


def test_cutmix_pastes_one_rectangle():
    shares = []
    for seed in range(50):
        mixed, targets = mixed_batch(Augmentation(cutmix=1.0), seed)
        pasted = mixed[3, 0] == 2
        assert torch.equal(pasted, mixed[3, 0] != 3) and torch.equal(mixed[3, 0], mixed[3, 1])
        rows, columns = pasted.any(1).sum(), pasted.any(0).sum()
        assert pasted.sum() == rows * columns
        shares.append(targets[3, 3].item())
    assert min(shares) < 0.5 < max(shares)


def test_mixup_weights_follow_the_beta_distribution():
    weights = np.array([mixed_batch(Augmentation(mixup=0.3), seed)[1][3, 3].item() for seed in range(600)])
    # Beta(a, a): mean 1/2, variance 1 / (4 (2a + 1))
    assert abs(weights.mean() - 0.5) < 0.08
    assert abs(weights.var() - 1 / (4 * 1.6)) < 0.02


def test_mixup_and_cutmix_share_the_batches():
    kinds = [mixed_batch(Augmentation(mixup=1.0, cutmix=1.0), seed)[0] for seed in range(60)]
    num_mixup = sum(bool(((mixed[3] > 2) & (mixed[3] < 3)).any()) for mixed in kinds)
    assert 15 <= num_mixup <= 45


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_no_step_waits_for_the_device():
    images = draw_images(64).cuda()
    offsets = torch.randint(5, (2, 64), generator=seeded(1))
    mirrored = torch.rand(64, generator=seeded(2)) < 0.5
    on_device = crop(images, 2, offsets.cuda(), mirrored.cuda()).cpu()
    assert torch.equal(on_device, slow_crop(images.cpu(), 2, offsets, mirrored))
    mean, std = torch.full((3,), 0.5).cuda(), torch.full((3,), 0.25).cuda()
    labels, generator = torch.arange(64).cuda(), seeded(device="cuda")
    augmentation = Augmentation(crop_padding=2, flip=True, cutout=3, mixup=0.5, cutmix=0.5)
    try:
        torch.cuda.set_sync_debug_mode("error")
        inputs = normalise(augment(images, augmentation, generator), mean, std)
        mix(inputs, labels, 64, augmentation, generator)
    finally:
        torch.cuda.set_sync_debug_mode("default")

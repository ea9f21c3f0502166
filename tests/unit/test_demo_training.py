"""Training shows the model exactly what the rollout's cache will show it."""

import torch

from demo.loss import Batch, held_out_errors, loss_of, predict
from demo.model import CONFIG, new_model
from demo.optimizer import make_optimizers, orthogonalise
from demo.teacher_forcing import TeacherForcing
from dummyforcing_core.clips.demo_assets import load_demo_codec
from dummyforcing_core.geometry import LatentShape
from dummyforcing_core.loops.rollout import rollout
from dummyforcing_core.loops.run import Run
from dummyforcing_core.models import wan
from dummyforcing_core.models.denoiser import WanDenoiser
from dummyforcing_core.models.families import get_family
from dummyforcing_core.policies import Full, SlidingWindow
from dummyforcing_core.prompts import PromptSchedule
from dummyforcing_core.schedule import Schedule

CHUNKS, COPIES, BATCH, SIGMA = 4, 2, 2, 0.7


def rolled_out(model, policy, clean, noisy, contexts, chunk):
    """The rollout's one-step prediction of one noisy chunk after the clean chunks before it."""
    shape = LatentShape(BATCH, 16, 3 * (chunk + 1), 8, 8)
    start = clean[:, :, : 3 * chunk] if chunk else None
    results = rollout(
        Run(
            WanDenoiser(model),
            shape,
            Schedule((SIGMA,)),
            PromptSchedule.per_chunk(contexts, 3),
            policy,
            get_family("demo"),
            noise=lambda step, span: noisy[:, :, span.start : span.stop],
            start=start,
        )
    )
    return list(results)[-1].latent


def test_teacher_forcing_equals_the_rollout():
    model = new_model(3).eval()
    generator = torch.Generator().manual_seed(4)
    clean = torch.randn(BATCH, 16, 3 * CHUNKS, 8, 8, generator=generator)
    sigma = torch.full((BATCH, COPIES * CHUNKS), SIGMA)
    # The rollout reads a given start with its first prompt: one prompt for all.
    context = torch.randn(BATCH, 1, CONFIG.text_len, CONFIG.text_dim, generator=generator).expand(-1, CHUNKS, -1, -1)
    order = [*range(CHUNKS - 1), *(COPIES * [*range(CHUNKS)])]
    text = wan.text_kv(model, context[:, order].flatten(0, 1))
    for history_chunks, policy in ((None, Full()), (1, SlidingWindow(6, 0))):
        attend = TeacherForcing(CHUNKS, COPIES, 4, 4, CONFIG.head_dim, history_chunks)
        target = clean.repeat(1, 1, COPIES, 1, 1)
        with torch.no_grad():
            velocity, noise = predict(model, clean[:, :, :-3], target, sigma, text, attend, generator)
        noisy = (1 - SIGMA) * target + SIGMA * noise
        predicted = noisy - SIGMA * velocity
        for copy in range(COPIES):
            mine = slice(3 * CHUNKS * copy, 3 * CHUNKS * (copy + 1))
            for chunk in (0, 1, 3):
                expected = rolled_out(model, policy, clean, noisy[:, :, mine], context.unbind(1), chunk)
                got = predicted[:, :, mine][:, :, 3 * chunk : 3 * chunk + 3]
                torch.testing.assert_close(got, expected, atol=2e-4, rtol=2e-4)


def test_a_few_steps_learn_something():
    model, codec = new_model(0), load_demo_codec()
    before = held_out_errors(model, codec, chunks=2, clips=4)
    optimizers = make_optimizers(model, 0.02, 3e-3)
    for step in range(10):
        loss = loss_of(model, codec, Batch(4, 2, 1), torch.Generator().manual_seed(step), drift=0.5 * (step % 2))
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
    after = held_out_errors(model, codec, chunks=2, clips=4)
    assert sum(after) < 0.95 * sum(before)


def test_orthogonalised_updates_have_singular_values_near_one():
    for shape in ((32, 96), (96, 32)):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(shape, generator=torch.Generator().manual_seed(0))))
        assert values.min() > 0.3 and values.max() < 1.4

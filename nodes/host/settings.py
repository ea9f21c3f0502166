"""What our nodes write on a MODEL: a frozen value in its transformer options, and a guard against samplers that
would ignore it."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import comfy.patcher_extension

from ...dummyforcing_core.errors import DummyForcingError
from ...dummyforcing_core.models.families import Family
from ...dummyforcing_core.models.metadata import parse_metadata, resolve_family
from ...dummyforcing_core.models.stepcache import NO_STEPS, StepCache, TeaCache
from ...dummyforcing_core.models.weight_files import read_header
from ...dummyforcing_core.policies import Policy
from ...dummyforcing_core.schedule import Schedule

KEY = "dummyforcing"
TITLES = {  # the nodes that set policies, by policy
    "dummy": "Apply Dummy Forcing",
    "window": "Apply Cache Window",
    "head_forcing": "Apply Head Forcing",
    "head_budget": "Apply Head Budget",
}
REPLACED = "replaced the settings of"
REPLACED_STEPS = f"{REPLACED} another TeaCache"
Wrappers = comfy.patcher_extension.WrappersMP


class StreamingSamplerBase:
    """Marks samplers that read `ARSettings`; the guard lets only these pass."""


@dataclass(frozen=True)
class ARSettings:
    """How a MODEL is to be sampled. None: the family's own.

    known_from -- where the family is known from, for the report
    steps      -- TeaCache, or the steps to skip
    notes      -- lines that the report must show
    """

    family: Family | None = None
    known_from: str = ""
    policy: Policy | None = None
    steps: TeaCache | tuple[int, ...] | None = None
    fingerprint: str = ""
    notes: tuple[str, ...] = ()

    def step_cache(self, denoise: Any, schedule: Schedule) -> StepCache:
        """The steps to skip on this schedule."""
        if isinstance(self.steps, TeaCache):
            return self.steps.pattern(denoise, schedule)
        return self.listed_steps(schedule)

    def steps_text(self, cache: StepCache) -> str:
        """For the report: which steps are skipped, and by what."""
        skipped = ", ".join(map(str, sorted(cache.skipped))) or "none"
        if isinstance(self.steps, TeaCache):
            return f"{skipped} (TeaCache, threshold {self.steps.threshold:g})"
        return f"{skipped} (skip_steps; a threshold does not count)" if self.steps else skipped

    def listed_steps(self, schedule: Schedule) -> StepCache:
        """Those of them that are known without the model."""
        if isinstance(self.steps, TeaCache):
            return NO_STEPS
        return StepCache.explicit(self.steps, schedule) if self.steps else NO_STEPS


def settings_of(model: Any) -> ARSettings:
    """The MODEL's settings, empty if no node of ours has touched it."""
    return model.model_options.get("transformer_options", {}).get(KEY) or ARSettings()


def with_settings(model: Any, **changes: Any) -> Any:
    """A clone of the MODEL with these settings changed."""
    clone = model.clone()
    clone.model_options.setdefault("transformer_options", {})[KEY] = replace(settings_of(model), **changes)
    clone.remove_wrappers_with_key(Wrappers.OUTER_SAMPLE, KEY)
    clone.add_wrapper_with_key(Wrappers.OUTER_SAMPLE, KEY, _guard)
    return clone


def with_policy(model: Any, policy: Policy, notes: tuple[str, ...]) -> Any:
    """A clone of the MODEL with this policy and these notes, and one more if another node's policy is lost by it."""
    before = settings_of(model).policy
    kept = tuple(note for note in notes if note.startswith(REPLACED_STEPS) or not note.startswith(REPLACED))
    if before is not None and before != policy:
        kept += (f"{REPLACED} {TITLES[before.name]}: a MODEL carries one of them, the last is {TITLES[policy.name]}",)
    return with_settings(model, policy=policy, notes=kept)


def steps_notes(model: Any, steps: TeaCache | tuple[int, ...]) -> tuple[str, ...]:
    """The MODEL's notes once it skips these steps, with one more if another node's are lost by it."""
    settings = settings_of(model)
    notes = tuple(note for note in settings.notes if not note.startswith(REPLACED_STEPS))
    if settings.steps is not None and settings.steps != steps:
        notes += (f"{REPLACED_STEPS}: a MODEL carries one of them, the last counts",)
    return notes


def _guard(executor: Any, noise: Any, latent_image: Any, sampler: Any, *args: Any, **kwargs: Any) -> Any:
    settings = settings_of(executor.class_obj)
    if not isinstance(sampler, StreamingSamplerBase) and (settings.policy is not None or settings.steps is not None):
        raise DummyForcingError(
            "sample this MODEL with the Streaming Sampler (or its SAMPLER in SamplerCustomAdvanced): it "
            "carries a Dummy Forcing, cache window or TeaCache setting, which this sampler would ignore"
        )
    return executor(noise, latent_image, sampler, *args, **kwargs)


def family_of(model: Any) -> tuple[Family, str]:
    """The family of a MODEL and where that is known from: our loader, or the file that a stock loader names."""
    settings = settings_of(model)
    if settings.family is not None:
        return settings.family, settings.known_from
    arguments = (getattr(model, "cached_patcher_init", None) or (None, ()))[1]
    path = Path(str(arguments[0])) if arguments and isinstance(arguments[0], str) else None
    family = None
    if path is not None:
        stated = parse_metadata(read_header(path))
        family = resolve_family(None, stated.family, path)
        if family is not None:
            return family, f"{'the metadata' if stated.family else 'the name'} of {path.name}"
    raise DummyForcingError(
        f"nothing tells how {path.name if path else 'this MODEL'} was trained: it may be an ordinary (bidirectional) "
        "Wan model, which cannot be sampled chunk by chunk; load an autoregressive checkpoint with Load AR Model and "
        "pick its family there"
    )

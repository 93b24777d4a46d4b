"""What an ablation compares: networks that differ from each other by one thing."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from sddusr.config import Config

BASELINE, REGISTERED, DETAIL, TRUST, SFM, REPLACED, CONSTANT = (
    "baseline",
    "registered",
    "detail",
    "trust",
    "sfm",
    "replaced",
    "constant",
)

Study = Literal["parts", "knobs", "dictionary"]
"""`parts`: what the method is built of, one after the other. `knobs`: what is left open.
`dictionary`: ways to bring the tokens to life, beside the paper's and one constant vector."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One network, trained once for each seed."""

    name: str
    config: Config
    over: tuple[str, ...] = ()
    """Variants that its gain is counted against."""
    as_given: bool = False
    """Trained and tested on Refs that were not registered."""
    weights_of: str = ""
    """The variant whose trained weights it uses, where it differs in inference alone."""


def with_tokens(num: int) -> str:
    """The name of the whole method with so many tokens."""
    return f"sddusr-{num}"


def variants(
    base: Config, study: Study, tokens: Sequence[int], has_as_given: bool = False
) -> list[Variant]:
    """The networks of a study, each after those that it is compared with.

    Args:
        base: the whole method, as trained where nothing else is said.
        tokens: the N of the parts' study.
        has_as_given: shards with unregistered Refs are available for the baseline.
    """
    if study == "parts":
        return _parts(base, tokens, has_as_given)
    return _knobs(base) if study == "knobs" else _dictionaries(base)


def _parts(base: Config, tokens: Sequence[int], has_as_given: bool) -> list[Variant]:
    """Baseline, registered Ref, detail, trust, sparse matching, a residual that gives way to
    detail, dictionary; and one constant vector in the dictionary's place."""
    beside = replace(base.model.detail, replaced_residual=0.0)
    no_tokens = _model(base, dictionary=replace(base.model.dictionary, enabled=False))
    sparse = _model(no_tokens, detail=beside)
    dense = _model(sparse, mask=replace(base.model.mask, enabled=False))
    plain = _model(dense, detail=replace(beside, enabled=False))
    by_confidence = _model(dense, detail=replace(beside, trust=False))
    added: list[tuple[str, Config]] = [(BASELINE, plain)]
    if has_as_given:
        added = [(BASELINE, _data(plain, register_ref="none")), (REGISTERED, plain)]
    if base.model.detail.enabled:
        added += [(DETAIL, by_confidence), (TRUST, dense)]
    added.append((SFM, sparse))
    if base.model.detail.enabled and no_tokens != sparse:
        added.append((REPLACED, no_tokens))
    names = [name for name, _ in added]
    chain = [
        Variant(
            name=name,
            config=config,
            over=(names[index - 1],) if index else (),
            as_given=has_as_given and name == BASELINE,
        )
        for index, (name, config) in enumerate(added)
    ]
    last = names[-1]
    return [
        *chain,
        Variant(name=CONSTANT, config=_constant(base), over=(last,)),
        *(
            Variant(
                name=with_tokens(num), config=_tokens(base, num), over=(BASELINE, last, CONSTANT)
            )
            for num in tokens
        ),
    ]


def _knobs(base: Config) -> list[Variant]:
    center, crop_px = with_tokens(base.model.dictionary.num_tokens), base.data.crop_px
    quarter_px = crop_px // 8 * 2
    changed = {
        center: base,
        "temperature-0.05": _matching(base, temperature=0.05),
        "temperature-0.01": _matching(base, temperature=0.01),
        "attention-sqrt_d": _dictionary(base, attention="sqrt_d"),
        "attention-cosine": _dictionary(base, attention="cosine"),
        "mask-image": _data(base, mask_scope="image"),
        "windows-near": _data(base, shift_px=(0, quarter_px)),
        "windows-paper": _data(base, shift_px=(quarter_px, 3 * quarter_px)),
        "windows-far": _data(base, shift_px=(crop_px, 2 * crop_px)),
    }
    every_key = _model(base, mask=replace(base.model.mask, mask_keys=False))
    return [
        *_against(center, changed),
        Variant(name="keys-all", config=every_key, over=(center,), weights_of=center),
    ]


def _dictionaries(base: Config) -> list[Variant]:
    printed = {"norm": False, "num_heads": 1, "token_scale": 1.0, "keep_logit": 0.0}
    changed = {
        CONSTANT: _constant(base),
        with_tokens(base.model.dictionary.num_tokens): base,
        "as-printed": _dictionary(base, **printed),
        "cosine": _dictionary(base, **printed, attention="cosine"),
        "heads-1": _dictionary(base, norm=True, num_heads=1),
        "heads-4": _dictionary(base, norm=True, num_heads=4),
        "large-tokens": _dictionary(base, norm=True, token_scale=1.0),
        "keep-half": _dictionary(base, norm=True, keep_logit=0.0),
        "keep-less": _dictionary(base, norm=True, keep_logit=-3.0),
        "written": _dictionary(base, norm=True, tokens="written"),
    }
    return _against(CONSTANT, changed)


def _against(first: str, changed: dict[str, Config]) -> list[Variant]:
    """Each config once, its gain counted against the first."""
    configs: list[Config] = []
    found: list[Variant] = []
    for name, config in changed.items():
        if config not in configs:
            configs.append(config)
            over = () if name == first else (first,)
            found.append(Variant(name=name, config=config, over=over))
    return found


def _constant(base: Config) -> Config:
    return _dictionary(base, constant=True, norm=False, num_heads=1)


def _model(config: Config, **parts: Any) -> Config:
    return replace(config, model=replace(config.model, **parts))


def _matching(config: Config, **fields: Any) -> Config:
    return _model(config, matching=replace(config.model.matching, **fields))


def _dictionary(config: Config, **fields: Any) -> Config:
    return _model(config, dictionary=replace(config.model.dictionary, **fields))


def _tokens(config: Config, num: int) -> Config:
    return _dictionary(config, num_tokens=num)


def _data(config: Config, **fields: Any) -> Config:
    return replace(config, data=replace(config.data, **fields))

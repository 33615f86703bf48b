"""Which versions a load request asks for, as Triton's model configuration says it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec

from bedplate.errors import NotServedError, RequestError, suggest


class _Latest(msgspec.Struct):
    num_versions: Annotated[int, msgspec.Meta(ge=1)] = 1


class _Specific(msgspec.Struct):
    versions: list[int | str] = []


class VersionPolicy(msgspec.Struct):
    """At most one of three: the newest, all, or those that are listed."""

    latest: _Latest | None = None
    all: dict[str, Any] | None = None
    specific: _Specific | None = None


class _Config(msgspec.Struct):
    version_policy: VersionPolicy | None = None


def asked_versions(parameters: Mapping[str, Any], name: str) -> VersionPolicy | None:
    """What the parameters of a load request say of versions; None: nothing.

    `version` names one; `config` is a JSON text whose `version_policy` is `{"latest": {"num_versions": 2}}`,
    `{"all": {}}` or `{"specific": {"versions": [3]}}`. The rest of a configuration is the registry's, and not read.

    Raises:
        RequestError: a parameter is unknown, or has another form.
    """
    unknown = [p for p in parameters if p not in ("version", "config")]
    if unknown:
        hint = suggest(unknown[0], ["version", "config"], "parameters")
        raise RequestError(f"the parameter '{unknown[0]}' is not supported", where="$.parameters", hint=hint)
    version, config = parameters.get("version"), parameters.get("config")
    if version is not None:
        if config is not None or isinstance(version, bool) or not isinstance(version, int | str):
            raise RequestError(
                f"got version {version!r}, expected a number or its text, without a config", where="$.parameters"
            )
        return VersionPolicy(specific=_Specific([version]))
    if config is None:
        return None
    if not isinstance(config, str | bytes):
        raise RequestError(
            f"not a model configuration: got {config!r}, expected a text of JSON",
            where=f"config of model '{name}'",
            hint="""such as '{"version_policy": {"latest": {"num_versions": 2}}}'""",
        )
    try:
        policy = msgspec.json.decode(config, type=_Config).version_policy
    except (msgspec.MsgspecError, TypeError, UnicodeError, RecursionError) as error:
        raise RequestError(f"not a model configuration: {error}", where=f"config of model '{name}'") from error
    if policy is not None and sum(part is not None for part in (policy.latest, policy.all, policy.specific)) > 1:
        raise RequestError("got several version policies, expected one", where=f"config of model '{name}'")
    return policy


def choose(policy: VersionPolicy | None, name: str, known: Mapping[str, Sequence[str]], default: str) -> list[str]:
    """The versions of a model that a policy asks for, oldest first.

    Args:
        policy: as `asked_versions` gives it.
        name: the model.
        known: every model with its versions, oldest first.
        default: the version that is meant where nothing is said.

    Raises:
        NotServedError: there is no such version.
    """
    versions = known[name]
    if policy is None:
        return [default]
    if policy.all is not None:
        return list(versions)
    if policy.latest is not None:
        return list(versions[-policy.latest.num_versions :])
    if policy.specific is None:
        return [default]
    wanted = {str(v) for v in policy.specific.versions}
    missing = sorted(wanted - set(versions))
    if missing:
        hint = suggest(missing[0], versions, "versions")
        raise NotServedError(f"model '{name}' has no version '{missing[0]}'", hint=hint)
    return [v for v in versions if v in wanted]

"""Which parameters of a request had no effect although a client might expect one.

Knows no HTTP and no model.
"""

from __future__ import annotations

from mtad.server.api.request_models import ChatRequest, CompletionRequest

_NO_EFFECT: dict[str, tuple[object, ...]] = {
    "store": (False,),
    "service_tier": ("auto", "default"),
    "verbosity": ("medium",),
    "reasoning_effort": ("none",),
}
"""By parameter: the values that ask for what happens anyway."""


def ignored(body: ChatRequest | CompletionRequest, template: str) -> list[str]:
    """The parameters of a request that had no effect.

    Args:
        body: the request.
        template: of chats; a variable that it has is not ignored.
    """
    given = ((name, getattr(body, name, None)) for name in _NO_EFFECT)
    return [
        name
        for name, value in given
        if value is not None and value not in _NO_EFFECT[name] and name not in template
    ]

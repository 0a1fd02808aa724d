"""Pieces of acceptance rules: residual distributions, longest prefixes, walks down a tree.

p = target, q = draft. Nothing here knows a model or reads a tensor back to the host.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from mtad.core.logs import exp_of, log_of
from mtad.core.noise import Noise, first_argmax, sample
from mtad.core.tree import TokenTree
from mtad.sampling.truncation import NEVER
from mtad.speculative.method import Verdict

EMPTY = 1e-12
"""A residual of less mass than this is a rounding event."""


def residual(
    p: Float[Tensor, "*lead vocab"], q: Float[Tensor, "*lead vocab"]
) -> Float[Tensor, "*lead vocab"]:
    """Log of norm(max(p - q, 0)), p and q given as logs; p itself where p and q are equal."""
    return residual_weights(p, exp_of(q))


def residual_weights(
    p: Float[Tensor, "*lead vocab"], taken: Float[Tensor, "*lead vocab"]
) -> Float[Tensor, "*lead vocab"]:
    """Log of norm(max(p - taken, 0)) for log-probabilities p and the mass `taken` from them."""
    left = (exp_of(p) - taken).clamp(min=0)
    total = left.sum(-1, keepdim=True)
    return torch.where(total > EMPTY, log_of(left / total.clamp(min=EMPTY)), p)


def at_node(
    logprobs: Float[Tensor, "rows nodes vocab"], nodes: Int[Tensor, " rows"]
) -> Float[Tensor, "rows vocab"]:
    """Each row's log-probabilities at its node."""
    return logprobs.gather(1, nodes[:, None, None].expand(-1, 1, logprobs.shape[2])).squeeze(1)


def value_at(
    values: Shaped[Tensor, "rows width"], index: Int[Tensor, " rows"]
) -> Shaped[Tensor, " rows"]:
    """Each row's value at its index."""
    return values.gather(1, index[:, None]).squeeze(1)


def spent_until(
    costs: Float[Tensor, "rows nodes"], num_accepted: Int[Tensor, " rows"]
) -> Float[Tensor, "rows 1"]:
    """What a chain's block adds to a ledger: the costs of its tokens, the endpoint included.

    The cost of a token is that of the node before it.
    """
    return costs.double().cumsum(1).gather(1, num_accepted[:, None])


def largest_overshoot(
    ledger: Float[Tensor, "rows 1"],
    tree: TokenTree,
    logprobs: Float[Tensor, "rows nodes"],
    path: Int[Tensor, "rows depth"],
    num_accepted: Int[Tensor, " rows"],
) -> Float[Tensor, "rows 1"]:
    """The ledger after a block: the largest 1 - p/q of all draft tokens that were accepted.

    With that probability speculative sampling would have rejected the token; 0 where p >= q.

    Args:
        ledger: before the block.
        tree: the draft, with log q of each node.
        logprobs: log p of each node.
        path, num_accepted: see `Verdict`.
    """
    excess = 1 - (logprobs - tree.node_logprobs).double().exp().clamp(max=1)
    order = torch.arange(path.shape[1], device=path.device)
    counts = torch.where(order < num_accepted[:, None], excess.gather(1, path), 0.0)
    return torch.cat([ledger, counts], dim=1).amax(1, keepdim=True)


def prefix_length(accepted: Bool[Tensor, "rows depth"]) -> Int[Tensor, " rows"]:
    """Number of leading true values."""
    return accepted.int().cumprod(1).sum(1)


def last_true(accepted: Bool[Tensor, "rows depth"]) -> Int[Tensor, " rows"]:
    """1 + the place of the last true value, 0 where there is none."""
    order = torch.arange(1, accepted.shape[1] + 1, device=accepted.device)
    return torch.nn.functional.pad(accepted * order, (1, 0)).amax(1)


def chain_path(tree: TokenTree) -> Int[Tensor, "rows depth"]:
    """The nodes of a chain."""
    order = torch.arange(1, tree.num_nodes, device=tree.tokens.device)
    return order.expand(tree.num_rows, -1)


def chain_logprobs(tree: TokenTree) -> Float[Tensor, "rows depth vocab"]:
    """The draft's log-probabilities at each position of a chain."""
    return torch.cat(tree.draft_logprobs[: tree.depth], dim=1)


def endpoint(logprobs: Float[Tensor, "rows vocab"], noise: Noise) -> Int[Tensor, " rows"]:
    """The token after the accepted path, drawn from `logprobs`."""
    return sample(logprobs, noise.uniform("endpoint"))


def speculative_endpoint_logprobs(
    p: Float[Tensor, "rows nodes vocab"],
    q: Float[Tensor, "rows depth vocab"],
    alive: Bool[Tensor, "rows depth"],
    num_accepted: Int[Tensor, " rows"],
) -> Float[Tensor, "rows vocab"]:
    """The residual at the rejected position of a chain, p after a fully accepted one, as logs.

    A position whose node is dead was never drafted, so nothing was rejected there.
    """
    at_end = at_node(p, num_accepted)
    rejected = residual(at_end, at_node(q, num_accepted.clamp(max=q.shape[1] - 1)))
    drafted = value_at(torch.nn.functional.pad(alive, (0, 1)), num_accepted)
    return torch.where(drafted[:, None], rejected, at_end)


def passes_coin(
    tree: TokenTree, p: Float[Tensor, "rows nodes vocab"], noise: Noise
) -> Bool[Tensor, "rows depth"]:
    """Which tokens of a chain pass the test of speculative sampling, each with min(1, p/q).

    Args:
        tree: a chain.
        p: log-probabilities that the tokens are judged by.
        noise: randomness.
    """
    log_ratio = (tree.token_values(p) - tree.node_logprobs)[:, 1:]
    return tree.alive[:, 1:] & (noise.uniform("accept", tree.depth).log() <= log_ratio)


def accept_chain(
    tree: TokenTree,
    p: Float[Tensor, "rows nodes vocab"],
    accepted: Bool[Tensor, "rows depth"],
    noise: Noise,
) -> Verdict:
    """The tokens of a chain before the first that is not accepted, and the token after them.

    Args:
        tree: a chain, with the laws q that its tokens were drawn from.
        p: the target's log-probabilities.
        accepted: the test of each token.
        noise: randomness.
    """
    length, alive = prefix_length(accepted), tree.alive[:, 1:]
    logprobs = speculative_endpoint_logprobs(p, chain_logprobs(tree), alive, length)
    return Verdict(chain_path(tree), length, endpoint(logprobs, noise))


def accept_matches(
    tree: TokenTree, logprobs: Float[Tensor, "rows nodes vocab"], noise: Noise
) -> Verdict:
    """Draw a token from the target at every node and follow the children that equal it.

    Lossless for any tree that does not depend on the draws: the first token that no child equals
    has the target's distribution given the path. Of equal siblings the first counts: every node has
    its own draw, and to follow the luckiest of them would favour the draft's tokens.
    """
    drawn = sample(logprobs, noise.uniform("match", tree.num_nodes))
    wanted = drawn.gather(1, tree.parents.clamp(min=0))
    matches = (tree.tokens == wanted) & tree.alive & ~repeats_sibling(tree)
    return accept_deepest(tree, path_is_true(tree, matches), drawn)


def repeats_sibling(tree: TokenTree) -> Bool[Tensor, "rows nodes"]:
    """Which nodes have an earlier sibling with the same token."""
    same_token = tree.tokens[:, :, None] == tree.tokens[:, None]
    siblings = tree.parents[:, :, None] == tree.parents[:, None]
    return (same_token & siblings).tril(-1).any(2)


def path_is_true(
    tree: TokenTree, accepted: Bool[Tensor, "rows nodes"]
) -> Bool[Tensor, "rows nodes"]:
    """Nodes that are accepted together with all their ancestors below the root."""
    return tree.accumulate((~accepted).float()) == 0


def accept_deepest(
    tree: TokenTree,
    accepted: Bool[Tensor, "rows nodes"],
    next_tokens: Int[Tensor, "rows nodes"],
) -> Verdict:
    """The path to the deepest accepted node (the lowest index of equals) and the token after it."""
    depth_if = torch.where(accepted, tree.depths, 0)
    order = depth_if * tree.num_nodes - torch.arange(tree.num_nodes, device=accepted.device)
    node = order.argmax(1)
    return Verdict(tree.path_to(node), value_at(depth_if, node), value_at(next_tokens, node))


def accept_all(tree: TokenTree) -> Verdict:
    """A chain taken as it is: its last living token is the token that follows the others.

    Nothing lives where the logits were NaN, which the engine reports after the iteration.
    """
    length = tree.alive[:, 1:].sum(1)
    return Verdict(chain_path(tree), (length - 1).clamp(min=0), value_at(tree.tokens, length))


def endpoint_after(
    p: Float[Tensor, "rows nodes vocab"],
    nodes: Int[Tensor, " rows"],
    mode: str,
    noise: Noise,
) -> Int[Tensor, " rows"]:
    """The endpoint token after `nodes`: drawn from the target, or its most likely token."""
    logprobs = at_node(p, nodes)
    return logprobs.argmax(-1) if mode == "greedy" else endpoint(logprobs, noise)


def joint_logprobs(
    tree: TokenTree, logprobs: Float[Tensor, "rows nodes vocab"]
) -> Float[Tensor, "rows nodes"]:
    """The log-probability of every node's whole path under `logprobs`; dead nodes add nothing."""
    return tree.accumulate(torch.where(tree.alive, tree.token_values(logprobs), 0.0))


def first_deepest(
    tree: TokenTree,
    passes: Bool[Tensor, "rows nodes"],
    joint_p: Float[Tensor, "rows nodes"],
) -> tuple[Int[Tensor, " rows"], Int[Tensor, " rows"]]:
    """The passing node of largest joint probability on the deepest level that has one; its depth.

    The root, depth 0, where none passes; the lowest index among equals.
    """
    depth_if = torch.where(passes, tree.depths, 0)
    depth = depth_if.amax(1)
    candidates = passes & (tree.depths == depth[:, None])
    node = first_argmax(joint_p.masked_fill(~candidates, NEVER))
    return torch.where(depth > 0, node, 0), depth


def walk(
    tree: TokenTree,
    logprobs: Float[Tensor, "rows nodes vocab"],
    noise: Noise,
    shrink_q: bool,
) -> Verdict:
    """Multi-step speculative sampling from the root down a tree.

    Args:
        tree: all nodes of a level have as many children, next to each other in draw order.
        logprobs: the target's log-probabilities after every node.
        noise: randomness.
        shrink_q: siblings were drawn without replacement: after a rejection the token leaves q.
    """
    node, place = torch.zeros_like(tree.previous), torch.zeros_like(tree.previous)
    going = torch.ones_like(tree.alive[:, 0])
    path, hits, end = [], [], logprobs[:, 0]
    for depth, level in enumerate(tree.levels[1:]):
        k = tree.widths[depth + 1] // tree.widths[depth]
        p, q = at_node(logprobs, node), at_node(tree.draft_logprobs[depth], place)
        u = noise.uniform(f"accept {depth}", k)
        children = place[:, None] * k + torch.arange(k, device=place.device)
        tokens = tree.tokens[:, level].gather(1, children)
        alive = tree.alive[:, level].gather(1, children)
        chosen, left = try_children(p, q, tokens, alive, u, shrink_q)
        hit = going & (chosen < k)
        end = torch.where((going & ~hit)[:, None], left, end)
        place = torch.where(hit, value_at(children, chosen.clamp(max=k - 1)), 0)
        node = torch.where(hit, level.start + place, node)
        going = hit
        path.append(node)
        hits.append(hit)
    end = torch.where(going[:, None], at_node(logprobs, node), end)
    accepted = torch.stack(hits, dim=1).sum(1)
    return Verdict(torch.stack(path, dim=1), accepted, endpoint(end, noise))


def try_children(
    p: Float[Tensor, "rows vocab"],
    q: Float[Tensor, "rows vocab"],
    tokens: Int[Tensor, "rows k"],
    alive: Bool[Tensor, "rows k"],
    u: Float[Tensor, "rows k"],
    shrink_q: bool,
) -> tuple[Int[Tensor, " rows"], Float[Tensor, "rows vocab"]]:
    """The place of the first accepted child (k where none is), and p after the rejections.

    Each child x is accepted with probability min(1, p(x)/q(x)); a rejected one takes q out of p.
    Where nothing is left of q the child counts as given, q being one-hot at it.
    """
    k = tokens.shape[1]
    chosen = torch.full_like(tokens[:, 0], k)
    for i in range(k):
        token = tokens[:, i : i + 1]
        one_hot = torch.full_like(q, NEVER).scatter(1, token, 0.0)
        q = torch.where(q.gather(1, token) > NEVER, q, one_hot)
        log_ratio = (p.gather(1, token) - q.gather(1, token))[:, 0]
        open_ = (chosen == k) & alive[:, i]
        accepted = open_ & (u[:, i].log() <= log_ratio)
        chosen = torch.where(accepted, i, chosen)
        rejected = (open_ & ~accepted)[:, None]
        p = torch.where(rejected, residual(p, q), p)
        if shrink_q:
            smaller = q.scatter(1, token, NEVER).log_softmax(1).nan_to_num(nan=NEVER, neginf=NEVER)
            q = torch.where(rejected, smaller, q)
    return chosen, p

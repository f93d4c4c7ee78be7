"""What the runner computes equals what transformers computes, however the work is cut up."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pbkv.replay.batch import Slice
from pbkv.replay.model import page_shape
from pbkv.replay.pool import Layout, Pool, copy_runs
from pbkv.replay.runner import RunnerConfig
from tests.replay.world import CPU, FAMILIES, PAGE, World, part, tokens_of

TOLERANCE = 1e-5  # of fp32 logits: the issue's own bound; found are some 4e-7


@pytest.mark.parametrize("name", FAMILIES)
def test_a_prompt_in_chunks_beside_decodes_gives_transformers_logits(name: str) -> None:
    world = World(name)
    one, two, three = tokens_of(1, 200), tokens_of(2, 90), tokens_of(3, 33)
    pages = [world.take(len(tokens)) for tokens in (one, two, three)]
    assert world.error([part(one, 0, 100, pages[0])], [one]) <= TOLERANCE
    first = [part(two, 0, 17, pages[1]), part(one, 100, 101, pages[0]), part(three, 0, 32, pages[2])]
    assert world.error(first, [two, one, three]) <= TOLERANCE
    second = [part(one, 101, 150, pages[0]), part(three, 32, 33, pages[2]), part(two, 17, 80, pages[1])]
    assert world.error(second, [one, three, two]) <= TOLERANCE
    decodes = [part(two, 80, 81, pages[1]), part(one, 150, 151, pages[0])]
    assert world.error(decodes, [two, one]) <= TOLERANCE


@pytest.mark.parametrize("name", FAMILIES)
def test_greedy_tokens_are_those_of_generate(name: str) -> None:
    world, prompt = World(name), tokens_of(4, 40)
    pages = world.take(60)
    expected = world.reference.generate(
        torch.from_numpy(prompt)[None], max_new_tokens=20, do_sample=False, eos_token_id=None, pad_token_id=0
    )[0, 40:]
    found = [int(world.runner.run([Slice(prompt, 0, pages)]).next_tokens[0])]
    for position in range(40, 59):
        step = Slice(np.array(found[-1:]), position, pages)
        found.append(int(world.runner.run([step]).next_tokens[0]))
    assert found == expected.tolist()


@pytest.mark.parametrize("layout", ["page-first", "layer-first"])
@pytest.mark.parametrize("name", FAMILIES)
def test_two_sequences_share_the_pages_of_their_prefix(name: str, layout: Layout) -> None:
    world, shared = World(name, layout=layout), tokens_of(5, 3 * PAGE)
    one, two = (np.concatenate([shared, tokens_of(seed, 30)]) for seed in (6, 7))
    prefix = world.take(len(shared))
    pages = [np.concatenate([prefix, world.take(30)]) for _ in range(2)]
    world.runner.run([part(one, 0, len(shared), pages[0])])
    batch = [part(one, len(shared), 70, pages[0]), part(two, len(shared), 78, pages[1])]
    assert world.error(batch, [one, two]) <= TOLERANCE


@pytest.mark.parametrize("layout", ["page-first", "layer-first"])
@pytest.mark.parametrize("name", FAMILIES)
def test_pages_that_went_to_the_host_and_came_back_elsewhere_serve_as_before(
    name: str, layout: Layout
) -> None:
    world, tokens = World(name, layout=layout), tokens_of(8, 100)
    pages = world.take(100)
    world.runner.run([part(tokens, 0, 96, pages)])
    host = Pool(world.pool.shape, 10, CPU, layout=layout)
    kept, there, back = world.pool.pages[pages[:6]].clone(), np.array([7, 8, 9, 0, 1, 4]), world.take(96)
    copy_runs(world.pool, host, pages[:6], there)
    world.pool.pages[pages] = float("nan")
    copy_runs(host, world.pool, there, back)
    assert torch.equal(world.pool.pages[back], kept)  # bit by bit: fp32 without a NaN
    again = np.concatenate([back, world.take(4)])
    assert world.error([part(tokens, 96, 97, again)], [tokens]) <= TOLERANCE
    assert world.error([part(tokens, 97, 100, again)], [tokens]) <= TOLERANCE


@pytest.mark.parametrize("name", FAMILIES)
def test_a_page_that_was_dropped_is_computed_again(name: str) -> None:
    world, tokens = World(name), tokens_of(9, 90)
    pages = world.take(90)
    world.runner.run([part(tokens, 0, 80, pages)])
    world.pool.pages[pages[2:]] = float("nan")
    new = np.concatenate([pages[:2], world.take(58)])
    assert world.error([part(tokens, 2 * PAGE, 90, new)], [tokens]) <= TOLERANCE


@pytest.mark.parametrize("name", FAMILIES)
def test_a_run_of_decodes_equals_its_iterations(name: str) -> None:
    world, one, two = World(name), tokens_of(10, 60), tokens_of(11, 80)
    pages = [world.take(60), world.take(80)]
    world.runner.run([part(one, 0, 30, pages[0]), part(two, 0, 61, pages[1])])
    batch = [part(one, 30, 31, pages[0]), part(two, 61, 62, pages[1])]
    found = world.runner.decode_run(batch, 10, np.stack([one[30:40], two[61:71]], axis=1)).next_tokens
    expected = [world.expected(one)[30:40].argmax(-1), world.expected(two)[61:71].argmax(-1)]
    assert torch.equal(found, torch.stack(expected, dim=1))
    after = [part(one, 40, 41, pages[0]), part(two, 71, 75, pages[1])]
    assert world.error(after, [one, two]) <= TOLERANCE


def test_hidden_states_are_those_after_the_last_norm() -> None:
    world, tokens = World(FAMILIES[0]), tokens_of(12, 20)
    found = world.runner.run([part(tokens, 0, 20, world.take(20))], want_hidden=True).hidden
    output = world.reference.model(torch.from_numpy(tokens)[None])
    assert found is not None
    assert (found[0] - output.last_hidden_state[0, -1]).abs().max() <= TOLERANCE


@pytest.mark.parametrize("name", FAMILIES)
def test_the_compiled_step_is_one_graph_and_gives_the_same(name: str) -> None:
    torch._dynamo.reset()
    world, tokens = World(name, config=RunnerConfig(compile_backend="aot_eager")), tokens_of(13, 60)
    pages = world.take(60)
    assert world.error([part(tokens, 0, 40, pages)], [tokens]) <= TOLERANCE
    assert world.error([part(tokens, 40, 57, pages)], [tokens]) <= TOLERANCE
    assert world.error([part(tokens, 57, 58, pages)], [tokens]) <= TOLERANCE


def test_a_slice_without_its_pages_is_refused() -> None:
    world, tokens = World(FAMILIES[0]), tokens_of(14, 40)
    pages = world.take(32)
    with pytest.raises(ValueError, match="slice 0: 33 tokens after 0 on 2 pages"):
        world.runner.run([part(tokens, 0, 33, pages)])
    with pytest.raises(ValueError, match="3 more tokens"):
        world.runner.decode_run([part(tokens, 30, 31, pages)], 3, np.zeros((3, 1), dtype=np.int64))
    assert page_shape(world.reference, PAGE) == world.pool.shape


def test_more_decodes_than_there_is_room_for_are_refused_as_a_run_and_served_as_an_iteration() -> None:
    world, tokens = World(FAMILIES[0], config=RunnerConfig(max_decodes=1)), tokens_of(15, 10)
    pages = [world.take(10), world.take(10)]
    world.runner.run([part(tokens, 0, 5, each) for each in pages])
    batch = [part(tokens, 5, 6, each) for each in pages]
    with pytest.raises(ValueError, match="at most 1 slices"):
        world.runner.decode_run(batch, 2, np.zeros((2, 2), dtype=np.int64))
    assert world.error(batch, [tokens, tokens]) <= TOLERANCE

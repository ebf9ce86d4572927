"""MODEL arguments become paths as they were given, in natural order, by content."""

from __future__ import annotations

import numpy as np
import pytest
from checkpoint_builders import save_legacy, save_safetensors, save_zip, weights

from resnet_audit.checkpoint import expand, load
from resnet_audit.checkpoint.expand import candidates, natural_key
from resnet_audit.errors import UnreadableCheckpoint, UsageError


@pytest.fixture
def run(tmp_path):
    """A folder of one training run: three checkpoints, two other files, and a folder that is not looked into."""
    save_zip(tmp_path / "epoch10.pt", weights())
    save_legacy(tmp_path / "epoch2", weights())
    save_safetensors(tmp_path / "epoch9.log", weights())
    (tmp_path / "config.yaml").write_text("lr: 0.1\n")
    (tmp_path / "gone.pt").symlink_to("nowhere")
    (tmp_path / "below").mkdir()
    save_zip(tmp_path / "below" / "other.pt", weights())
    return tmp_path


def test_a_folder_gives_its_checkpoints_in_natural_order_and_counts_the_rest(run):
    paths, notices = expand([str(run)])
    assert paths == [f"{run}/epoch2", f"{run}/epoch9.log", f"{run}/epoch10.pt"]
    assert notices == [f"{run}: 2 other files were passed over: not a checkpoint"]
    assert candidates(str(run)) == (paths, 2)


@pytest.mark.parametrize("names", [("inputs",), ("inputs", "labels"), ("labels",)])
def test_data_in_a_folder_are_no_checkpoint_unless_they_are_named(names, run):
    data = run / "digits.npz"
    np.savez(data, **{name: np.zeros((3, 1, 8, 8)) for name in names})
    paths, notices = expand([str(run)])
    assert paths == [f"{run}/epoch2", f"{run}/epoch9.log", f"{run}/epoch10.pt"]
    assert notices == [f"{run}: 3 other files were passed over: not a checkpoint"]
    assert expand([str(data)]) == ([str(data)], [])
    assert expand([f"{run}/*.npz"]) == ([str(data)], [])


@pytest.mark.parametrize("name", ["conv.weight", "inputs.weight", "outputs"])
def test_arrays_in_a_folder_that_are_not_all_data_are_a_checkpoint(name, tmp_path):
    np.savez(tmp_path / "weights.npz", **{"inputs": np.zeros(3), name: np.zeros((2, 3))})
    assert expand([str(tmp_path)]) == ([f"{tmp_path}/weights.npz"], [])


def test_data_beside_the_only_checkpoint_here_are_no_rival(run, monkeypatch):
    monkeypatch.chdir(run / "below")
    np.savez("digits.npz", inputs=np.zeros((3, 1, 8, 8)), labels=np.zeros(3))
    assert expand([]) == (["other.pt"], [])


def test_a_folder_of_data_alone_holds_no_checkpoint(tmp_path):
    np.savez(tmp_path / "digits.npz", inputs=np.zeros((3, 1, 8, 8)))
    assert expand([str(tmp_path)]) == ([str(tmp_path)], [])
    with pytest.raises(UnreadableCheckpoint, match="no file in it is a checkpoint"):
        load(str(tmp_path))


def test_paths_stay_as_they_were_given(run, monkeypatch):
    monkeypatch.chdir(run)
    assert expand(["./epoch2", "absent.pt"]) == (["./epoch2", "absent.pt"], [])
    assert expand(["./below"]) == (["./below/other.pt"], [])
    assert expand(["./epoch*"])[0] == ["./epoch2", "./epoch9.log", "./epoch10.pt"]
    assert expand(["."])[0] == ["epoch2", "epoch9.log", "epoch10.pt"]


def test_a_pattern_without_a_match_is_a_path_that_load_refuses(run):
    assert expand([f"{run}/*.ckpt", f"{run}/none"]) == ([f"{run}/*.ckpt", f"{run}/none"], [])
    with pytest.raises(UnreadableCheckpoint, match="no file matches"):
        load(f"{run}/*.ckpt")


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(run):
    save_zip(run / "best[1].pt", weights())
    assert expand([f"{run}/best[1].pt"])[0] == [f"{run}/best[1].pt"]


def test_a_folder_without_a_checkpoint_is_a_path_that_load_refuses(tmp_path):
    (tmp_path / "a.txt").write_text("hello")
    assert expand([str(tmp_path)]) == ([str(tmp_path)], [])
    with pytest.raises(UnreadableCheckpoint, match="no file in it is a checkpoint"):
        load(str(tmp_path))


@pytest.mark.parametrize("name", [".metadata", "model.safetensors.index.json", "config.json"])
def test_a_folder_that_is_one_checkpoint_stays_one_path(name, tmp_path):
    (tmp_path / name).write_text("{}")
    save_zip(tmp_path / "shard.pt", weights())
    assert expand([str(tmp_path)]) == ([str(tmp_path)], [])


def test_without_arguments_the_only_checkpoint_here_is_meant(run, monkeypatch):
    monkeypatch.chdir(run / "below")
    assert expand([]) == (["other.pt"], [])
    monkeypatch.chdir(run)
    with pytest.raises(UsageError, match=r"3 checkpoints: epoch2, epoch9.log, epoch10.pt"):
        expand([])
    for name in ("epoch2", "epoch9.log", "epoch10.pt"):
        (run / name).unlink()
    with pytest.raises(UsageError, match="no checkpoint"):
        expand([])


def test_standard_input_is_a_path_of_its_own():
    assert expand(["-"]) == (["-"], [])


def test_natural_order_puts_numbers_by_value_and_is_total():
    names = ["b", "a10", "a2", "a02", "10", "2x", "a", "", "a2b1"]
    ordered = sorted(names, key=natural_key)
    assert ordered == ["", "2x", "10", "a", "a02", "a2", "a2b1", "a10", "b"]

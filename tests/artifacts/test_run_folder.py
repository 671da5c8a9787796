import pytest

import attar
from attar.artifacts.claims import claim
from attar.artifacts.run import RunFolder, require_intact
from attar.errors import ArtifactError
from attar.marks import Rules
from attar.methods import methods
from attar.run.settings import sections_of
from attar.runtime.files import read_json, write_json, write_text

RULES = Rules.of(sections_of(methods()["tesla"]))

SETTINGS = {"run": {"source": "digits", "ipc": 1, "device": "cpu"}}


def make_stage(folder: RunFolder, settings, parents=(), name="squeeze", content="x"):
    stage = folder.stage(name, settings, parents)
    if not stage.complete:
        files = []
        with stage.making(files, seed=0):
            (stage.folder / "result.txt").write_text(content)
            files.append("result.txt")
    return stage


def test_the_same_settings_go_on_and_others_are_refused_by_name(tmp_path):
    folder = RunFolder(tmp_path / "run", RULES)
    folder.open(SETTINGS)
    folder.open(SETTINGS)
    with pytest.raises(ArtifactError, match=r"run\.ipc: was 1, now 2"):
        folder.open({"run": {**SETTINGS["run"], "ipc": 2}})


@pytest.mark.parametrize("left", [None, "squeeze/expert_0000.safetensors", "events-1-of-2.jsonl"])
def test_a_run_that_made_nothing_gives_way_to_who_is_alone(tmp_path, left):
    folder, others = RunFolder(tmp_path / "run", RULES), {"run": {**SETTINGS["run"], "ipc": 2}}
    folder.open(SETTINGS)
    with pytest.raises(OSError, match="not there"), folder.stage("squeeze", {"a": 1}).making([]):
        raise OSError("the weights are not there")
    if left:
        (folder.path / left).touch()
    with pytest.raises(ArtifactError, match="other settings"):
        folder.open(others)
    if left:
        with pytest.raises(ArtifactError, match="other settings"):
            folder.open(others, alone=True)
        assert folder.settings() == SETTINGS
    else:
        folder.open(others, alone=True)
        assert folder.settings() == others
        make_stage(folder, {"a": 2})


def test_what_is_left_of_work_that_ended_early_is_anyones(tmp_path):
    for name in (".lock", "events.jsonl", "tensorboard"):
        (tmp_path / name).touch()
    claim(tmp_path, "a bench")
    claim(tmp_path, "a study")
    (tmp_path / "study.yaml").touch()
    (tmp_path / "notes.txt").touch()
    claim(tmp_path, "a study")
    with pytest.raises(ArtifactError, match="is a study"):
        claim(tmp_path, "a bench")


def test_where_the_work_is_done_may_change(tmp_path):
    folder = RunFolder(tmp_path / "run", RULES)
    folder.open(SETTINGS)
    folder.open({"run": {**SETTINGS["run"], "device": "cuda"}})


def test_fresh_deletes_ours_and_nothing_else(tmp_path):
    folder = RunFolder(tmp_path / "run", RULES)
    folder.open(SETTINGS)
    make_stage(folder, {"a": 1})
    (folder.path / "notes.txt").write_text("the user's")
    folder.open({"run": {"source": "other"}}, fresh=True)
    assert (folder.path / "notes.txt").read_text() == "the user's"
    assert not (folder.path / "squeeze").exists()


def test_a_folder_of_other_things_is_refused_even_with_fresh(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    for fresh in (False, True):
        with pytest.raises(ArtifactError, match=r"thesis\.tex"):
            RunFolder(tmp_path, RULES).open(SETTINGS, fresh=fresh)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_stage_is_complete_only_at_its_end(tmp_path):
    folder = RunFolder(tmp_path, RULES)
    stage = folder.stage("squeeze", {"a": 1})
    with pytest.raises(RuntimeError), stage.making([]):
        raise RuntimeError
    assert not folder.stage("squeeze", {"a": 1}).complete
    assert make_stage(folder, {"a": 1}).complete
    assert folder.stage("squeeze", {"a": 1}).complete


def test_a_stage_with_a_missing_or_cut_file_is_made_again(tmp_path):
    folder = RunFolder(tmp_path, RULES)
    stage = make_stage(folder, {"a": 1})
    (stage.folder / "result.txt").write_text("")
    assert not stage.complete
    (stage.folder / "result.txt").unlink()
    assert not stage.complete


def test_other_settings_of_a_stage_or_of_its_parent_are_refused(tmp_path):
    folder = RunFolder(tmp_path, RULES)
    parent = make_stage(folder, {"a": 1})
    make_stage(folder, {"b": 1}, [parent], name="recover")
    with pytest.raises(ArtifactError, match="b: was 1, now 2"):
        folder.stage("recover", {"b": 2}, [parent])
    (tmp_path / "squeeze" / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match="another squeeze"):
        folder.stage("recover", {"b": 1}, [folder.stage("squeeze", {"a": 2})])


def test_two_processes_do_not_share_a_folder(tmp_path):
    with (
        RunFolder(tmp_path).locked(),
        pytest.raises(ArtifactError, match="another attar"),
        RunFolder(tmp_path).locked(),
    ):
        pass


def test_a_damaged_config_is_told(tmp_path):
    (tmp_path / "config.yaml").write_text("- just\n- a list\n")
    with pytest.raises(ArtifactError, match="damaged"):
        RunFolder(tmp_path).settings()


def experts(num: int, epochs: int = 2) -> dict[str, dict[str, int]]:
    return {"squeeze": {"num_experts": num, "epochs": epochs}}


def test_more_experts_go_on_and_fewer_are_refused(tmp_path):
    folder = RunFolder(tmp_path / "run", RULES)
    folder.open(experts(2))
    make_stage(folder, experts(2))
    folder.open(experts(3))
    stage = folder.stage("squeeze", experts(3))
    assert not stage.complete
    assert make_stage(folder, experts(3)).complete
    assert folder.stage("squeeze", experts(3)).complete
    assert folder.settings() == experts(3)
    with pytest.raises(ArtifactError, match=r"squeeze\.num_experts: was 3, now 2"):
        folder.open(experts(2))
    with pytest.raises(ArtifactError, match=r"squeeze\.num_experts: was 3, now 2"):
        folder.stage("squeeze", experts(2))


def test_more_experts_of_another_kind_are_refused(tmp_path):
    folder = RunFolder(tmp_path / "run", RULES)
    folder.open(experts(2))
    make_stage(folder, experts(2))
    for found in (lambda: folder.open(experts(3, epochs=4)), lambda: folder.stage("squeeze", experts(3, epochs=4))):
        with pytest.raises(ArtifactError, match=r"squeeze\.epochs: was 2, now 4"):
            found()
    assert folder.settings() == experts(2)


def test_more_experts_need_leave_to_begin_again_what_stands_on_them(tmp_path):
    folder = RunFolder(tmp_path / "run", RULES)
    folder.open(experts(2))
    make_stage(folder, {"b": 1}, [make_stage(folder, experts(2))], name="recover")
    for redo in (None, "relabel"):
        with pytest.raises(ArtifactError, match="recover was made with what squeeze holds now") as caught:
            folder.open(experts(3), redo=redo)
        assert "--redo recover" in caught.value.fix
    assert folder.settings() == experts(2)
    folder.open(experts(3), redo="recover")
    assert (folder.path / "squeeze" / "result.txt").exists()
    assert not (folder.path / "recover").exists()


def test_how_many_experts_at_once_may_change(tmp_path):
    folder = RunFolder(tmp_path / "run", RULES)
    folder.open({"squeeze": {"experts_at_once": "auto"}})
    folder.open({"squeeze": {"experts_at_once": 5}})


def test_what_earlier_stages_were_made_with_stays_where_a_later_one_is_done_again(tmp_path):
    made = {"run": {"seed": 0, "ipc": 1}, "method": {"num_steps": 3}, "recover": {"ema": 0}, "relabel": {"keep": 1}}
    folder = RunFolder(tmp_path / "run", RULES)
    folder.open(made)
    others = {"run.seed": 2, "run.ipc": 2, "method.num_steps": 4, "recover.ema": 0.5, "relabel.keep": 2}
    refused = {"recover": {"run.seed"}, "relabel": {"run.seed", "run.ipc", "method.num_steps", "recover.ema"}}
    for redo, decided in refused.items():
        for name, value in others.items():
            section, field = name.split(".")
            changed = {**made, section: {**made[section], field: value}}
            if name in decided:
                with pytest.raises(ArtifactError, match=name):
                    folder.open(changed, redo=redo)
            else:
                folder.open(changed, redo=redo)
                folder.open(made, redo=redo)


def test_a_folder_of_other_files_is_refused_and_left_as_it_is(tmp_path):
    (tmp_path / "cats").mkdir()
    folder = RunFolder(tmp_path, RULES)
    with pytest.raises(ArtifactError, match="not a run of attar: it holds cats"):
        folder.require_free()
    with pytest.raises(ArtifactError, match="not a run of attar: it holds cats"):
        attar.distill("digits", "random", 1, out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["cats"]


def test_a_flipped_bit_in_a_finished_stage_is_told_with_its_file(tmp_path):
    stage = RunFolder(tmp_path).stage("squeeze", {"a": 1})
    with stage.making(["teacher.safetensors"]):
        write_text(stage.folder / "teacher.safetensors", "weights")
    require_intact(stage.folder)
    (stage.folder / "teacher.safetensors").write_text("weightt")
    assert stage.complete, "of the size that it had"
    with pytest.raises(ArtifactError, match=r"squeeze/teacher\.safetensors is damaged") as told:
        require_intact(stage.folder)
    assert "delete it and run `attar distill` again with --redo recover" in told.value.fix


@pytest.mark.parametrize("name", ["/etc/hostname", "../../secret", "../distilled/../../secret", "..", "a/../../b", ""])
def test_a_manifest_names_no_file_outside(tmp_path, name):
    stage = RunFolder(tmp_path).stage("squeeze", {"a": 1})
    with stage.making([]):
        pass
    note = read_json(stage.folder / "manifest.json")
    write_json(stage.folder / "manifest.json", note | {"files": {name: {"bytes": 1, "sha256": "0"}}})
    with pytest.raises(ArtifactError, match="what it says of the file"):
        _ = stage.complete

"""Recordings as tasks: formats that are refused, splits that do not mix, silence."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import pytest

from nas.data import fsdd, speech_commands
from nas.data.audio import at_speed, centred, read_wav
from nas.data.task import everything
from nas.errors import DataError


def test_a_wav_file_of_another_form_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "stereo.wav"
    with wave.open(str(file), "wb") as w:
        w.setnchannels(2)
        w.setsampwidth(2)
        w.setframerate(8000)
        w.writeframes(bytes(400))
    with pytest.raises(DataError, match=r"stereo.wav.*2 channels"):
        read_wav(file, sample_rate_hz=8000)
    with wave.open(str(file), "wb") as w:
        w.setnchannels(1)
        w.setsampwidth(2)
        w.setframerate(8000)
        w.writeframes(bytes(400))
    for lost in (1, 2):
        (tmp_path / "cut.wav").write_bytes(file.read_bytes()[:-lost])
        with pytest.raises(DataError, match=f"cut.wav: is cut off: {400 - lost} of 400 bytes"):
            read_wav(tmp_path / "cut.wav", sample_rate_hz=8000)
    (tmp_path / "empty.wav").write_bytes(b"")
    with pytest.raises(DataError, match="no readable WAV"):
        read_wav(tmp_path / "empty.wav", sample_rate_hz=8000)


def test_clips_are_centred_and_played_faster() -> None:
    clip = np.arange(10, dtype=np.int16)
    assert centred(clip, 4).tolist() == [3, 4, 5, 6]
    assert centred(clip[:3], 6).tolist() == [0, 0, 1, 2, 0, 0]
    assert len(at_speed(clip, 200)) == 5
    assert at_speed(clip, 200).tolist() == [0, 2, 4, 6, 8]


def test_fsdd_is_split_by_index_and_its_test_split_is_read_on_demand(shared_dir: Path, tmp_path: Path) -> None:
    recordings = tmp_path / "recordings"
    recordings.mkdir()
    for file in (shared_dir / "data" / "fsdd" / "recordings").glob("[0-2]_theo_*.wav"):
        (recordings / file.name).symlink_to(file)
    for spoilt in recordings.glob("*_theo_[0-4].wav"):
        spoilt.unlink()
        spoilt.write_bytes(b"not read before it is asked for")
    task = fsdd.load(tmp_path, speeds_percent=(100,))
    assert (len(task.train.labels), len(task.validation.labels)) == (3 * 40, 3 * 5)
    assert everything(task.validation).shape == (15, 48, 32, 1)
    assert sorted(set(task.train.labels.tolist())) == [0, 1, 2]
    train = {x.tobytes() for x in everything(task.train)}
    assert not train & {x.tobytes() for x in everything(task.validation)}
    with pytest.raises(DataError):
        task.test()


def test_the_test_split_is_no_split_to_judge_by(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"validation_indexes=\[3, 4\]: indexes 0 to 4 are the test split"):
        fsdd.load(tmp_path, validation_indexes=range(3, 9))


def test_speech_commands_follow_their_lists(shared_dir: Path) -> None:
    folder = shared_dir / "data" / "speech_commands_sample"
    task = speech_commands.load(folder)
    counts = [len(s.labels) for s in (task.train, task.validation, task.test())]
    words = sum(len(list((folder / word).glob("*.wav"))) for word in speech_commands.WORDS)
    assert words == 100
    unknown = [int((s.labels == 11).sum()) for s in (task.train, task.validation, task.test())]
    assert sum(counts) - sum(unknown) == words and all(unknown)
    assert task.train.read(np.array([0, 5])).shape == (2, 48, 32, 1)
    everything(task.test())


def test_silence_is_cut_from_background_noise_where_there_is_some(shared_dir: Path, tmp_path: Path) -> None:
    source = shared_dir / "data" / "speech_commands_sample"
    for name in ("yes", "no", "cat", "testing_list.txt", "validation_list.txt"):
        (tmp_path / name).symlink_to(source / name)
    (tmp_path / "_background_noise_").mkdir()
    with wave.open(str(tmp_path / "_background_noise_" / "hum.wav"), "wb") as w:
        w.setnchannels(1)
        w.setsampwidth(2)
        w.setframerate(16000)
        w.writeframes(np.random.default_rng(0).integers(-500, 500, 40000).astype("<i2").tobytes())
    task = speech_commands.load(tmp_path, words=("yes", "no"))
    quiet = np.flatnonzero(task.train.labels == 2)
    assert len(quiet) and task.classes == ("yes", "no", "silence", "unknown")
    assert np.array_equal(task.train.read(quiet[:2]), task.train.read(quiet[:2]))
    with pytest.raises(DataError, match="has no folder maybe"):
        speech_commands.load(tmp_path, words=("maybe",))

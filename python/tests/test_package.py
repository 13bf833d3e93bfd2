"""The package as a user sees it. tests/wheel.sh runs it, and test_torch.py, on the installed wheel."""
import base64
import csv
import importlib.util
import json
import os
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
import unittest
from pathlib import Path

import numpy as np

import tessera_bench
from tessera_bench import CellsFailed, TesseraError, evaluate, run, score, tokenizer

SUITE = """
name: tiny
dataset: {kind: cifar-binary, root: images}
image_size: 32
patch_size: 8
backbone: {variant: nano}
tokenizers: [{name: Pixel, kind: kmeans, with: {features: {kind: pixels}, k: 4, epochs: 2}}]
pretrain: {epochs: 1, batch: 50, base_lr: 1.0e-3, augment: none}
knn: {k: 5}
linear_probe: {epochs: 2, batch: 100, base_lr: 0.1, augment: none}
"""

MODULE = """
import numpy as np
from tessera_bench import tokenizer

@tokenizer(codebook_size=8, version=3)
def bright(images):
    batch, channels, height, width = images.shape
    patches = images.reshape(batch, channels, height // 8, 8, width // 8, 8)
    return (patches.mean((1, 3, 5)) * 7.99).astype(np.int64)
"""


def bright(images):
    """8 levels of brightness of 4 x 4 patches."""
    batch, channels, height, width = images.shape
    patches = images.reshape(batch, channels, height // 8, 8, width // 8, 8)
    return (patches.mean((1, 3, 5)) * 7.99).astype(np.int64)


class InFolder(unittest.TestCase):
    """A folder with CIFAR's files: 200 train and 50 val images of 10 classes."""

    def setUp(self):
        self.before = os.getcwd()
        self.folder = tempfile.TemporaryDirectory()
        os.chdir(self.folder.name)
        draw = np.random.default_rng(7)
        os.mkdir("images")
        for at, name in enumerate([f"data_batch_{n}" for n in range(1, 6)] + ["test_batch"]):
            labels = np.arange(50 if at == 5 else 40) % 10
            base = draw.integers(0, 256, (len(labels), 3, 1, 1)) // 2 + 12 * labels[:, None, None, None]
            pixels = np.clip(base + draw.integers(-20, 20, (len(labels), 3, 32, 32)), 0, 255)
            rows = np.concatenate([labels[:, None], pixels.reshape(len(labels), -1)], 1)
            rows.astype(np.uint8).tofile(f"images/{name}.bin")
        Path("suite.yaml").write_text(SUITE)

    def tearDown(self):
        os.chdir(self.before)
        self.folder.cleanup()

    def train_images(self):
        """float32 [200, 3, 32, 32] and the labels, in scan order."""
        rows = np.concatenate([np.fromfile(f"images/data_batch_{n}.bin", np.uint8).reshape(40, -1) for n in range(1, 6)])
        return rows[:, 1:].reshape(-1, 3, 32, 32).astype(np.float32) / 255, rows[:, 0]


def bench(*words, **options):
    """Runs the command line."""
    return subprocess.run([sys.executable, "-m", "tessera_bench", *words], capture_output=True, text=True, **options)


class Scores(InFolder):
    def test_score_has_the_numbers_of_bench_score_to_the_last_digit(self):
        images, labels = self.train_images()
        np.save("ids.npy", bright(images).reshape(200, 16).astype(np.uint32))
        row = {"name": "File", "kind": "token-file", "with": {"train": "ids.npy", "codebook_size": 8}}
        Path("score.yaml").write_text(SUITE.split("backbone")[0] + f"tokenizers: [{json.dumps(row)}]\n")
        done = bench("score", "score.yaml", "--out", "out")
        self.assertEqual(done.returncode, 0, done.stderr)
        found = score(np.load("ids.npy"), labels, codebook_size=8, num_classes=10)
        with open("out/metrics.csv", newline="") as file:
            for line in csv.DictReader(file):
                expected = tuple(float(line[key]) if line[key] else None for key in ("value", "se", "null_mean", "null_se"))
                self.assertEqual(tuple(found.pop(line["metric"])), expected, line["metric"])
        self.assertEqual(found, {})

    def test_shapes_and_types_of_ids_do_not_matter(self):
        draw = np.random.default_rng(0)
        ids, labels = draw.integers(0, 9, (30, 4, 6)), draw.integers(0, 3, 30)
        expected = score(ids, labels, codebook_size=9, num_classes=3)
        for other in (ids.astype(np.int16), ids.tolist(), np.asfortranarray(ids)):
            self.assertEqual(score(other, labels.tolist(), codebook_size=9, num_classes=3), expected)
        self.assertEqual(score(ids.reshape(30, 24), labels, codebook_size=9, num_classes=3, grid=(4, 6)), expected)
        other = score(ids.reshape(30, 24), labels, codebook_size=9, num_classes=3, grid=(6, 4))
        self.assertEqual(other["tcas"], expected["tcas"])
        self.assertNotEqual(other["mi_left"], expected["mi_left"])
        self.assertGreater(expected["tcas"].null_se, 0)

    def test_codes_of_groups_are_scored_as_their_joint_code(self):
        draw = np.random.default_rng(0)
        codes, labels = draw.integers(0, 3, (30, 4, 4, 2)), draw.integers(0, 3, 30)
        joint = 5 * codes[..., 0] + codes[..., 1]
        self.assertEqual(score(codes, labels, groups=[3, 5], num_classes=3), score(joint, labels, codebook_size=15, num_classes=3))
        for groups in ([3, 2], [3], [1 << 13, 1 << 13]):
            with self.assertRaisesRegex(ValueError, "groups|ids"):
                score(codes, labels, groups=groups)

    def test_wrong_ids_and_labels_are_refused(self):
        ids, labels = np.zeros((4, 9), int), np.array([0, 1, 0, 1])
        for given, said in [
            ((ids + 0.5, labels), "integers"),
            ((ids - 1, labels), "-1"),
            ((ids[0], labels), "patches"),
            ((ids, labels[:3]), "labels"),
            ((ids, labels.astype(str)), "integers"),
            ((ids[:0], labels[:0]), "no images"),
            ((np.ma.masked_equal(ids, 0), labels), "ids: found an array with masked values"),
        ]:
            with self.assertRaisesRegex(ValueError, said):
                score(*given)
        with self.assertRaisesRegex(ValueError, "codebook_size"):
            score(ids + 5, labels, codebook_size=5)
        for wrong in (16.7, 0, -3, "16"):
            with self.assertRaisesRegex(ValueError, f"codebook_size: found {wrong!r}, expected an integer"):
                score(ids, labels, codebook_size=wrong)
        with self.assertRaisesRegex(ValueError, r"groups: found \[4, 4.5\]"):
            score(ids, labels, groups=[4, 4.5])
        with self.assertRaisesRegex(ValueError, "ids: found numbers of type float64"):
            score(ids.astype(float), labels)
        for many in ({"codebook_size": 10**12}, {"num_classes": 10**6}, {"num_classes": 10**12}):
            with self.assertRaisesRegex(ValueError, f"{next(iter(many))}.*at most"):
                score(ids, labels, **many)
        for wrong, grid in [(ids[:, :8], None), (ids, (2, 4)), (ids[:, :8], (2, 2, 2)), (ids.reshape(4, 3, 3), (9, 1)), (ids, 4), (ids, (-3, -3)), (ids, (3, 3.0))]:
            with self.assertRaisesRegex(ValueError, "grid"):
                score(wrong, labels, grid=grid)


class Runs(InFolder):
    def test_a_function_is_scored_beside_kmeans(self):
        images, labels = self.train_images()
        found = evaluate(bright, "images", codebook_size=8, image_size=32, patch_size=8, k=[3], out="out", kmeans=["pixel"])
        rows = {row["tokenizer"]: row for row in rows_of(found.results)}
        self.assertEqual(set(rows), {"K-means Pixel, K=3", "bright"})
        expected = score(bright(images), labels, codebook_size=8, num_classes=10)
        self.assertEqual(rows["bright"]["tcas"], expected["tcas"].value)
        self.assertIn("bright", str(found))
        self.assertTrue(found.page.is_file())
        self.assertEqual({name for name, _ in found.cells}, set(rows))
        self.assertTrue(all(path.is_dir() for path in found.cells.values()))
        metrics = [row for row in rows_of(found.metrics) if row["tokenizer"] == "bright" and row["metric"] == "tcas"]
        self.assertEqual((metrics[0]["value"], metrics[0]["se"]), expected["tcas"][:2])

    def test_a_function_is_trained_and_a_second_call_is_stored(self):
        calls = []

        @tokenizer(codebook_size=8)
        def mine(images):
            calls.append(len(images))
            return bright(images)

        found = run("suite.yaml", {"Mine (8)": mine}, {"knn.k": 3, "name": "other"}, out="out")
        row = next(row for row in rows_of(found.results) if row["tokenizer"] == "Mine (8)")
        self.assertEqual((row["status"], row["knn_k"], row["suite"]), ("ok", 3, "other"))
        self.assertTrue(0 <= row["lp_top1"] <= 100)
        self.assertTrue((found.cells["Mine (8)", 0] / "encoder.safetensors").is_file())
        first, calls[:] = len(calls), []
        again = run("suite.yaml", {"Mine (8)": mine}, {"knn.k": 3, "name": "other"}, out="out")
        self.assertEqual(rows_of(again.results), rows_of(found.results))
        # Only to find out whether the function is still the same.
        self.assertLess(len(calls), first / 4)
        self.assertEqual(set(calls), {16})

    def test_a_function_and_a_module_give_the_same_numbers(self):
        Path("mine.py").write_text(MODULE)
        row = '{name: Module, kind: python, with: {callable: "mine:bright", codebook_size: 8, version: 3}}'
        Path("suite.yaml").write_text(SUITE.replace("tokenizers: [", f"tokenizers: [{row}, "))
        found = run("suite.yaml", {"Function": tokenizer(codebook_size=8)(bright)}, train=False, out="out")
        numbers = {}
        for row in rows_of(found.metrics):
            numbers.setdefault(row.pop("tokenizer"), []).append(row)
        self.assertEqual(numbers["Function"], numbers["Module"])
        # The declaration is compared with the row.
        Path("suite.yaml").write_text(Path("suite.yaml").read_text().replace("version: 3", "version: 4"))
        with self.assertRaises(CellsFailed) as failed:
            run("suite.yaml", train=False, out="out")
        self.assertIn("the row has 4, the function declares 3", str(failed.exception))

    def test_errors_have_the_message_and_other_rows_go_on(self):
        def fails(images):
            raise KeyError("no such code")

        with self.assertRaises(CellsFailed) as failed:
            run("suite.yaml", {"Wrong": tokenizer(codebook_size=8)(fails)}, train=False, out="out")
        self.assertIn("no such code", rows_of(failed.exception.run.results)[1]["error"])
        self.assertIn("no such code", str(failed.exception))
        self.assertEqual(rows_of(failed.exception.run.results)[0]["status"], "ok")
        with self.assertRaises(CellsFailed) as failed:
            run("suite.yaml", {"Wrong": tokenizer(codebook_size=7)(bright)}, train=False, out="out")
        self.assertIn("codebook_size", str(failed.exception))
        with self.assertRaisesRegex(TesseraError, "pretrain.epoch.*expected one of") as refused:
            run("suite.yaml", set={"pretrain.epoch": 3})
        self.assertEqual(refused.exception.status, 2)
        with self.assertRaisesRegex(TesseraError, "no-such-folder"):
            evaluate(bright, "no-such-folder", codebook_size=8)
        with self.assertRaisesRegex(ValueError, "declares nothing"):
            run("suite.yaml", {"Plain": bright})
        with self.assertRaisesRegex(ValueError, "codebook_size"):
            evaluate(bright, "images")
        with self.assertRaisesRegex(ValueError, "either"):
            tokenizer(codebook_size=3, dim=4)

    def test_what_is_given_and_what_is_declared_must_agree(self):
        declared = tokenizer(codebook_size=8, input={"scale": "imagenet"})(bright)
        with self.assertRaisesRegex(ValueError, "codebook_size: found 9.*declares 8"):
            evaluate(declared, "images", codebook_size=9)
        seen = []

        @tokenizer(codebook_size=8, input={"scale": "imagenet"})
        def negative(images):
            seen.append(images.min())
            return bright(np.clip(images, 0, 1))

        evaluate(negative, "images", codebook_size=np.int64(8), image_size=32, patch_size=8, kmeans="pixel", k=3)
        self.assertLess(min(seen), -1)

    def test_a_function_that_saw_labels_says_so(self):
        """Its row was ranked, without a footnote."""
        seen = evaluate(bright, "images", codebook_size=8, saw_labels=True, image_size=32, patch_size=8, kmeans="pixel", k=3, out="seen")
        marked = {row["tokenizer"]: row["saw_labels"] for row in rows_of(seen.results)}
        self.assertEqual(marked, {"K-means Pixel, K=3": False, "bright": True})
        found = run("suite.yaml", {"Mine": tokenizer(codebook_size=8, saw_labels=True)(bright)}, train=False, out="out")
        self.assertEqual([row["saw_labels"] for row in rows_of(found.results)], [False, True])
        self.assertNotIn("saw_labels", tokenizer(codebook_size=8)(bright).tessera)

    def test_a_run_keeps_its_results_when_others_run_or_the_folder_changes(self):
        first = evaluate(bright, "images", codebook_size=8, image_size=32, patch_size=8, kmeans=[])
        second = evaluate(bright, "images", name="Other", codebook_size=8, image_size=32, patch_size=8, kmeans=[])
        os.chdir("images")
        names = [[row["tokenizer"] for row in rows_of(found.results)] for found in (first, second)]
        self.assertEqual(names, [["bright"], ["Other"]])
        self.assertTrue(first.page.is_file() and second.page.is_file())

    def test_failures_leave_no_threads_or_files_behind(self):
        calls = []

        @tokenizer(codebook_size=8)
        def late(images):
            calls.append(1)
            if len(calls) % 5 == 4:
                raise BrokenPipeError("of the function")
            return bright(images)

        before = None
        for at in range(4):
            with self.assertRaises(CellsFailed) as failed:
                run("suite.yaml", {"Late": late}, train=False, only="Late", out=f"out{at}")
            self.assertIn("of the function", str(failed.exception))
            calls.clear()
            time.sleep(0.5)
            now = threading.active_count(), len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
            before = before or now
        self.assertEqual(now, before)

    def test_nothing_ends_the_reader_of_messages(self):
        class Closed:
            def write(self, text):
                raise ValueError("closed")

            flush = write

        kept, sys.stderr = sys.stderr, Closed()
        try:
            found = run("suite.yaml", train=False, out="out")
        finally:
            sys.stderr = kept
        self.assertEqual(len(rows_of(found.results)), 1)

    def test_methods_and_names_of_any_script_work(self):
        class Model:
            @tokenizer(codebook_size=8)
            def encode(self, images):
                return bright(images)

        name = "猫 é, \"x\" ${Y}"
        found = run("suite.yaml", {name: Model().encode}, train=False, out="out")
        self.assertEqual(rows_of(found.results)[1]["tokenizer"], name)

    def test_bench_ends_with_its_python(self):
        Path("long.py").write_text(
            "from tessera_bench import run, tokenizer\n"
            "import time\n"
            "@tokenizer(codebook_size=8)\n"
            "def slow(images):\n"
            "    open('called', 'w').close()\n"
            "    time.sleep(0.3)\n"
            "    return (images[:, 0, ::8, ::8] * 7.9).astype(int)\n"
            "run('suite.yaml', {'Slow': slow}, out='out')\n"
        )
        program = subprocess.Popen([sys.executable, "long.py"], stderr=subprocess.DEVNULL)
        for _ in range(600):
            if Path("called").exists():
                break
            time.sleep(0.1)
        program.kill()
        program.wait()
        for _ in range(100):
            time.sleep(0.1)
            done = bench("run", "suite.yaml", "--only", "Pixel", "--out", "out")
            if done.returncode == 0:
                break
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_lines_go_to_logging(self):
        with self.assertLogs("tessera_bench", "INFO") as logs:
            run("suite.yaml", train=False, out="out")
        self.assertTrue(any("fit: Pixel" in line for line in logs.output), logs.output)

    def test_lines_go_to_logging_that_shows_only_warnings(self):
        Path("quiet.py").write_text(
            "import logging\n"
            "logging.basicConfig()\n"
            "from tessera_bench import run\n"
            "run('suite.yaml', train=False, out='out')\n"
        )
        done = subprocess.run([sys.executable, "quiet.py"], capture_output=True, text=True)
        self.assertEqual((done.returncode, done.stderr), (0, ""))

    def test_a_result_that_is_no_array_is_named(self):
        for result, said in [
            (lambda ids: None, "found None, expected one array"),
            (lambda ids: {"ids": ids}, "found dict with the keys 'ids'"),
            (lambda ids: (ids, 1), r"found tuple of 2 \(int64 \[16, 4, 4\], int\)"),
            (lambda ids: ids.astype(float), "type '<f8', expected integers"),
            (lambda ids: np.ma.masked_equal(ids, ids[0, 0, 0]), "found an array with masked values"),
        ]:
            function = tokenizer(codebook_size=8)(lambda images: result(bright(images)))
            with self.assertRaisesRegex(CellsFailed, said):
                run("suite.yaml", {"Wrong": function}, train=False, only="Wrong", out="out")

    def test_errors_name_no_temporary_file(self):
        with self.assertRaises(CellsFailed) as failed:
            evaluate(bright, "images", codebook_size=7, image_size=32, patch_size=8, kmeans=[])
        self.assertIn("codebook_size", str(failed.exception))
        with self.assertRaises(TesseraError) as refused:
            evaluate(bright, "images", codebook_size=8, image_size=32, patch_size=7, kmeans=[])
        for error in failed.exception, refused.exception:
            self.assertNotIn(tempfile.gettempdir() + "/tessera-", str(error))

    def test_groups_may_be_an_array(self):
        codes = lambda images: np.stack([bright(images) // 4, bright(images) % 4], -1)
        for groups in (np.array([2, 4]), (2, 4)):
            found = evaluate(codes, "images", name="codes", groups=groups, image_size=32, patch_size=8, kmeans=[])
            self.assertEqual(rows_of(found.results)[0]["status"], "ok")

    def test_ctrl_c_keeps_the_state_and_leaves_no_process(self):
        Path("slow.py").write_text(
            "import os, time\n"
            "from tessera_bench import run, tokenizer\n"
            "@tokenizer(codebook_size=8)\n"
            "def slow(images):\n"
            "    open('called', 'w').close()\n"
            # The run must not end before the signal arrives, however slow this machine is.
            "    time.sleep(30 if os.path.exists('out/results.csv') else 0.2)\n"
            "    return (images[:, 0, ::8, ::8] * 7.9).astype(int)\n"
            "run('suite.yaml', {'Slow': slow}, out='out')\n"
        )
        # A shell starts background jobs with the signal ignored, and programs inherit that.
        heard = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
        program = subprocess.Popen(
            [sys.executable, "slow.py"], stderr=subprocess.PIPE, text=True, preexec_fn=heard
        )
        for _ in range(600):
            if Path("called").exists() and Path("out/results.csv").exists():
                break
            time.sleep(0.1)
        # To this process only, as from a notebook.
        program.send_signal(signal.SIGINT)
        _, said = program.communicate(timeout=60)
        self.assertIn("KeyboardInterrupt", said)
        self.assertIn("run the same command again to resume", said)
        # Its lock is free.
        found = run("suite.yaml", {"Slow": tokenizer(codebook_size=8)(bright)}, train=False, out="out")
        self.assertEqual(len(rows_of(found.results)), 2)


class Documentation(InFolder):
    """The programs of the documentation; tests/wheel.sh puts the pages into the folder `pages`."""

    def blocks(self, page, count):
        text = (Path(__file__).parent.parent / "pages" / page).read_text()
        blocks = [part.partition("```")[0] for part in text.split("```python\n")[1:]]
        self.assertEqual(len(blocks), count, page)
        return blocks

    def test_the_programs_of_the_documentation_run(self):
        os.symlink("images", "photos")
        bench("init", "photos", "--k", "3", "--kmeans", "pixel")
        names = {}
        for block in self.blocks("python.md", 4):
            exec(block.replace("k=[50]", "k=[3]").replace("patch_size=4)", "patch_size=4, k=[3])"), names)
        self.assertLess(names["found"]["tcas"].value, 1)

    def test_the_first_program_of_the_package_runs(self):
        if not importlib.util.find_spec("torch"):
            self.skipTest("no torch")
        os.symlink("images", "photos")
        (block,) = self.blocks("README.md", 1)
        names = {}
        # The images of this test have 32 pixels, and there are few.
        exec(block.replace("image_size=224", "image_size=32, k=[3]"), names)
        self.assertIn("signs", str(names["found"]))

    def test_the_export_of_the_documentation_runs(self):
        try:
            import onnxruntime
            import torch
        except ImportError as error:
            self.skipTest(f"{error}: modules are not exported")

        class Tokenizer(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = torch.nn.Conv2d(3, 9, 8, stride=8)

            def encode(self, images):
                return self.layer(images).argmax(1)

        (block,) = self.blocks("onnx.md", 1)
        Path("models").mkdir()
        names = {"tokenizer": Tokenizer(), "sample": torch.rand(4, 3, 32, 32)}
        exec(block.replace("codebook_size=8192", "codebook_size=9"), names)
        self.assertEqual(names["manifest"]["codebook_size"], 9)


class CommandLine(InFolder):
    def test_both_names_are_the_command_line(self):
        scripts = Path(sysconfig.get_path("scripts"))
        for name in ("bench", "tessera-bench"):
            done = subprocess.run([scripts / name, "--version"], capture_output=True, text=True)
            self.assertEqual(done.stdout, f"bench {tessera_bench.__version__}\n")
        done = bench("validate", "suite.yaml", "--set", "knn.votes=3")
        self.assertEqual(done.returncode, 2)
        self.assertIn("knn.votes", done.stderr)

    def test_a_graph_that_asks_for_all_memory_ends_only_the_process_that_tries_it(self):
        # ConstantOfShape([2^20, 2^20]), its sum, and the images plus that.
        graph = (
            "CAg6lAEKFwoBcxIBYyIPQ29uc3RhbnRPZlNoYXBlCiIKAWMSAXEiCVJlZHVjZVN1bSoPCghrZWVwZGltcxgAoAECCg4KAXgKAXESAXkiA0FkZBIBZyoZCAIQB0IBc0oQAAAQAAAA"
            "AAAAABAAAAAAAFocCgF4EhcKFQgBEhEKAxIBYgoCCAMKAggQCgIIEGIJCgF5EgQKAggBQgQKABAR"
        )
        Path("m.onnx").write_bytes(base64.b64decode(graph))
        row = "{name: Pixel, kind: continuous, with: {features: {kind: onnx, model: m.onnx, input: {scale: zero-one}}}}"
        Path("suite.yaml").write_text(SUITE.replace(SUITE.split("tokenizers: [")[1].split("]\n")[0], row))
        done = bench("validate", "suite.yaml")
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertIn("TESSERA_ONNX_MEMORY", done.stderr)

    def test_this_interpreter_calls_functions_although_its_environment_is_not_active(self):
        Path("mine.py").write_text(MODULE)
        row = '{name: Module, kind: python, with: {callable: "mine:bright", codebook_size: 8, version: 3}}'
        Path("suite.yaml").write_text(SUITE.replace("tokenizers: [", f"tokenizers: [{row}, "))
        done = bench("score", "suite.yaml", env={**os.environ, "PATH": "/usr/bin:/bin"})
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_nodes_of_a_submitted_suite_start_the_script(self):
        done = bench("submit", "suite.yaml", "--to", "slurm", "--dry-run", "--out", "out")
        self.assertEqual(done.returncode, 0, done.stderr)
        plan = json.loads(Path("out/submit/plan.json").read_text())
        self.assertEqual(Path(plan["program"]), Path(sysconfig.get_path("scripts"), "tessera-bench"))
        done = subprocess.run([plan["program"], "node", "out", "0"], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)


def rows_of(table):
    """The rows of a pandas DataFrame, or of its stand-in."""
    if isinstance(table, list):
        return table
    return [{name: None if value != value else value for name, value in row.items()} for row in table.to_dict("records")]


if __name__ == "__main__":
    unittest.main()

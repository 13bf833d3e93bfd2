"""Functions and modules of PyTorch. Without it, these tests are skipped."""
import importlib.util
import json
import os
import struct
import subprocess
import sys
import unittest
import unittest.mock
import zlib
from pathlib import Path

import numpy as np

from test_package import SUITE, InFolder, rows_of
from tessera_bench import TesseraError, export, run, score, tokenizer


def png(pixels):
    """The file of an image `[height, width, 3]`, uint8."""
    height, width, _ = pixels.shape
    lines = np.concatenate([np.zeros((height, 1), np.uint8), pixels.reshape(height, -1)], 1)
    part = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + part(b"IDAT", zlib.compress(lines.tobytes())) + part(b"IEND", b"")


class Example(InFolder):
    """examples/torch_tokenizer.py, as a user runs it: on drawn images, or with TESSERA_LONG_TESTS on the folder TESSERA_IMAGES."""

    def test_a_function_of_torch_stands_beside_k_means(self):
        if not importlib.util.find_spec("torch"):
            self.skipTest("no torch")
        draw = np.random.default_rng(3)
        for split, count in ("train", 40), ("val", 10):
            for at, name in enumerate(["ant", "bee"]):
                Path("photos", split, name).mkdir(parents=True)
                for image in range(count):
                    pixels = draw.integers(0, 156, (64, 64, 3)) + 90 * at
                    Path("photos", split, name, f"{image}.png").write_bytes(png(pixels.astype(np.uint8)))
        folder = os.environ.get("TESSERA_IMAGES", "photos") if os.environ.get("TESSERA_LONG_TESTS") else "photos"
        script = Path(__file__).parent.parent / "examples" / "torch_tokenizer.py"
        done = subprocess.run([sys.executable, script, folder], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        print(done.stdout)
        head, *rows = [line.split() for line in done.stdout.splitlines() if line.strip()]
        self.assertTrue("TCAS" in head or "tcas" in head, done.stdout)
        for name in "projection", "K-means":
            self.assertTrue(any(name in row for row in rows), done.stdout)


class Frames(InFolder):
    """Results for those who have pandas, and ids and values for those who have torch."""

    def test_results_are_a_data_frame(self):
        if not importlib.util.find_spec("pandas"):
            self.skipTest("no pandas")
        found = run("suite.yaml", train=False, out="out")
        self.assertEqual(list(found.results["tokenizer"]), ["Pixel"])
        self.assertTrue(found.results["tcas"].between(0, 1).all())

    def test_ids_may_be_tensors(self):
        if not importlib.util.find_spec("torch"):
            self.skipTest("no torch")
        import torch

        draw = np.random.default_rng(5)
        ids, labels = draw.integers(0, 9, (60, 16)), np.arange(60) % 3
        self.assertEqual(score(torch.from_numpy(ids), torch.from_numpy(labels)), score(ids, labels))

    def test_values_and_torch_tensors_are_targets(self):
        try:
            import torch
        except ImportError:
            self.skipTest("no torch")
        with torch.no_grad():
            layer = torch.nn.Conv2d(3, 5, 8, stride=8)

        @tokenizer(dim=5, input={"scale": "imagenet"})
        @torch.no_grad()
        def values(images):
            return layer(torch.from_numpy(images)).permute(0, 2, 3, 1)

        found = run("suite.yaml", {"Values": values}, out="out")
        row = rows_of(found.results)[1]
        self.assertEqual((row["status"], row["tcas"]), ("ok", None))
        self.assertTrue(0 <= row["lp_top1"] <= 100)


class Exports(InFolder):
    def setUp(self):
        super().setUp()
        try:
            import onnxruntime
            import torch
        except ImportError as error:
            self.skipTest(f"{error}: modules are not exported")
        self.torch = torch
        torch.manual_seed(0)

        class Ids(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = torch.nn.Conv2d(3, 9, 8, stride=8)

            def forward(self, images):
                return self.layer(images).argmax(1)

        self.module, self.sample = Ids(), torch.rand(4, 3, 32, 32)

    def test_a_module_its_graph_and_a_function_give_the_same_ids(self):
        export(self.module, self.sample, "ids.onnx", scale="zero-one", codebook_size=9)
        row = "{name: Graph, kind: onnx-ids, with: {model: ids.onnx}}"
        Path("suite.yaml").write_text(SUITE.replace("tokenizers: [", f"tokenizers: [{row}, "))

        @tokenizer(codebook_size=9)
        @self.torch.no_grad()
        def function(images):
            return self.module(self.torch.from_numpy(images))

        found = run("suite.yaml", {"Function": function}, train=False, out="out")
        numbers = {}
        for row in rows_of(found.metrics):
            numbers.setdefault(row.pop("tokenizer"), []).append(row)
        self.assertEqual(numbers["Function"], numbers["Graph"])

    def test_weights_that_torch_writes_beside_a_graph_are_kept(self):
        """As of a module above 2 GiB. They were lost with a temporary folder."""
        import onnx
        import onnxruntime

        torch_export = self.torch.onnx.export

        def beside(module, inputs, file, **options):
            torch_export(module, inputs, file, **options)
            onnx.save_model(onnx.load(file), file, save_as_external_data=True, all_tensors_to_one_file=False, size_threshold=0)

        with unittest.mock.patch.object(self.torch.onnx, "export", beside):
            export(self.module, self.sample, "out/ids.onnx", scale="zero-one", codebook_size=9)
        self.assertEqual(sorted(os.listdir("out")), ["ids.onnx", "ids.onnx.data", "ids.yaml"])
        graph = onnxruntime.InferenceSession("out/ids.onnx", providers=["CPUExecutionProvider"])
        found = graph.run(None, {"pixel_values": self.sample.numpy()})[0]
        np.testing.assert_array_equal(found, self.module(self.sample).numpy())

    def test_features_and_float16_and_the_state_of_the_module(self):
        self.module.train()
        manifest = export(self.module.layer, self.sample, "features.onnx", scale="imagenet", half=True)
        self.assertEqual((manifest["dim"], manifest["grid"], manifest["input"]["side"]), (9, [4, 4], 32))
        self.assertTrue(self.module.layer.training)
        self.assertEqual(self.module.layer.weight.dtype, self.torch.float32)
        whole = export(self.module.layer, self.sample, "whole.onnx", scale="imagenet")
        self.assertLess(os.path.getsize("features.onnx"), os.path.getsize("whole.onnx"))
        self.assertNotEqual(manifest["sha256"], whole["sha256"])

    def test_what_cannot_be_used_is_refused(self):
        torch = self.torch

        class Beside(torch.nn.Module):
            def forward(self, images):
                return (images > images.mean()).any(1)[:, ::8, ::8].int()

        class Tokens(torch.nn.Module):
            def forward(self, images):
                return images.flatten(2)

        for module, options, error, said in [
            (self.module, {}, ValueError, "codebook_size"),
            (self.module, {"codebook_size": 3}, ValueError, "codebook_size: found 3"),
            (self.module.layer, {"codebook_size": 9}, ValueError, "argmax"),
            (Beside(), {"codebook_size": 2}, TesseraError, "images than for each image alone"),
            (self.module, {"codebook_size": 9, "scale": "zero-won"}, TesseraError, "zero-won.*zero-one"),
            (Tokens(), {"scale": "zero-won"}, TesseraError, "zero-won.*zero-one"),
        ]:
            with self.assertRaisesRegex(error, said):
                export(module, self.sample, "wrong.onnx", **{"scale": "zero-one", **options})
        with self.assertRaisesRegex(ValueError, "3, side, side"):
            export(self.module, self.sample[:1], "wrong.onnx", scale="zero-one", codebook_size=9)

    def of(self, forward):
        """A module that computes `forward(scores, images)`, with scores `[batch, 9, 4, 4]`."""

        class Of(self.torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = torch.nn.Conv2d(3, 9, 8, stride=8)

            def forward(self, images):
                return forward(self.layer(images), images)

        torch = self.torch
        return Of().eval()

    def refused(self, error, said, module, codebook_size=9, sample=None, **options):
        with self.assertRaisesRegex(error, said):
            export(module, self.sample if sample is None else sample, "wrong.onnx", scale="zero-one", codebook_size=codebook_size, **options)
        self.assertFalse(Path("wrong.onnx").exists())

    def test_a_module_whose_output_depends_on_other_images_is_refused(self):
        def stretched(scores, images):
            gray = images.mean(1)[:, ::8, ::8]
            return ((gray - float(gray.min())) / float(gray.max() - gray.min()) * 8.99).long()

        for forward in (
            stretched,
            lambda scores, images: scores.argmax(1) if images.mean() < 0.4 else scores.argmin(1),
            lambda scores, images: scores.argmax(1) if len(images) > 1 else scores.argmin(1),
            lambda scores, images: (scores - scores.mean(0)).argmax(1),
            lambda scores, images: (images.mean(1)[:, ::8, ::8] / images.max() * 8.99).long(),
        ):
            self.refused(TesseraError, "than for each image alone", self.of(forward))

    def test_a_graph_that_keeps_what_the_sample_has_is_refused(self):
        torch = self.torch

        def each(scores, images):
            ids = zip(images, scores.argmax(1), scores.argmin(1))
            return torch.stack([most if image.mean() < 0.4 else least for image, most, least in ids])

        def numpy(scores, images):
            return torch.from_numpy(scores.numpy().argmax(1))

        for forward in (each, numpy, lambda scores, images: scores.argmax(1).reshape(len(images), 16)):
            self.refused(TesseraError, "^wrong.onnx: the graph.*tracing keeps", self.of(forward))

    def test_training_mode_that_matters_is_refused(self):
        torch = self.torch
        class Ids(torch.nn.Module):
            def __init__(self, layer):
                super().__init__()
                self.layers = torch.nn.Sequential(torch.nn.Conv2d(3, 9, 8, stride=8), layer)

            def forward(self, images):
                return self.layers(images).argmax(1)

        for layer in (torch.nn.BatchNorm2d(9), torch.nn.Dropout(0.5)):
            module = Ids(layer).train()
            self.refused(ValueError, r"training mode.*module\.eval\(\)", module)
            self.assertTrue(module.training)
            export(module.eval(), self.sample, "right.onnx", scale="zero-one", codebook_size=9)

    def test_wrong_outputs_and_samples_are_named(self):
        torch, nan = self.torch, float("nan")
        of, right = self.of, self.of(lambda scores, images: scores.argmax(1))
        for said, module, codebook_size in [
            ("found tuple of 2", of(lambda scores, images: (scores.argmax(1), images)), 9),
            ("found dict with the keys 'ids'", of(lambda scores, images: {"ids": scores.argmax(1)}), 9),
            (r"found the shape \[4\].*each patch|found the shape \[1\].*each patch", of(lambda scores, images: scores.argmax(1)[:, 0, 0]), 9),
            ("found the type bool", of(lambda scores, images: scores[:, 0] > 0), None),
            ("found the type bool", of(lambda scores, images: scores[:, 0] > 0), 2),
            (r"found the shape \[batch, 6\], expected .*square", of(lambda scores, images: scores.argmax(1).flatten(1)[:, :6]), 9),
            (r"found the shape \[batch, 12\], expected .*square", of(lambda scores, images: scores.argmax(1).flatten(1)[:, :12]), 9),
            ("RuntimeError.*float32 .*convert no image", of(lambda scores, images: (scores.double() @ scores[0, 0])), None),
            (r"RuntimeError for float32 \[1, 3, 32, 32\].*shape\[0\]", of(lambda scores, images: scores.argmax(1).view(4, 16)), 9),
            ("found values that are NaN", of(lambda scores, images: scores * nan), None),
            ("found scores that are NaN", of(lambda scores, images: (scores * nan).argmax(1)), 9),
            ("codebook_size: found 9.5", right, 9.5),
        ]:
            self.refused(ValueError, said, module, codebook_size)
        self.refused(ValueError, "sample: found values that are NaN", right, sample=self.sample * nan)
        self.refused(ValueError, "sample: found only the value 1.0", right, sample=torch.ones(4, 3, 32, 32))
        self.refused(TesseraError, "opset=99", right, opset=99)

    def test_ids_of_any_type_and_samples_with_gradients_are_exported(self):
        for kind in (self.torch.uint8, self.torch.int32):
            module = self.of(lambda scores, images: scores.argmax(1).to(kind))
            manifest = export(module, self.sample.clone().requires_grad_(), "ids.onnx", scale="zero-one", codebook_size=9)
            self.assertIn("20 that were not traced", manifest["agreement"])

    def test_tessera_opens_tokens_and_names_no_temporary_file(self):
        resize = self.torch.nn.functional.interpolate
        tokens = lambda scores, images: resize(images, size=8, mode="bicubic").flatten(2).transpose(1, 2)
        more = lambda scores, images: self.torch.cat([tokens(scores, images)[:, :1], tokens(scores, images)], 1)
        os.environ.pop("VIRTUAL_ENV", None)
        for forward in (tokens, more):
            export(self.of(forward), self.sample, "tokens.onnx", scale="zero-one")
            os.environ["TESSERA_ONNX"] = "rten"
            try:
                self.refused(TesseraError, "^tokenizers.*: wrong.onnx.*Resize|^wrong.onnx.*Resize", self.of(forward), None)
            finally:
                del os.environ["TESSERA_ONNX"]


if __name__ == "__main__":
    unittest.main()

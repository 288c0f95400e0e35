"""``flowship compare``: the precisions of a bundle side by side, in numbers and in pictures."""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image, ImageDraw

from ..atomic import atomic_file, check_file
from ..bundle import Bundle
from ..conditions import Watch, describe
from ..engines import EngineOptions, find_engine
from ..errors import UsageError
from ..flow import Flow
from ..footprint import footprints
from ..images import Bytes, Floats, grid, max_abs_error, psnr_db, to_uint8
from ..input_paths import check_readable
from ..likelihood import few_pictures
from ..machine_limits import usable_cores
from ..manifest import Quality
from ..opening import default_plan, made_for
from ..pictures import read_labelled
from ..prepare import MODES
from ..progress import ProgressLine
from ..reasons import in_few_lines
from ..stats import relative_iqr
from ..table import format_bytes, format_interval, format_number, format_table
from ..trust import MIN_SECONDS, TRUSTED_SAMPLES, Series, Trust, judge, series_of
from ..untimed import NOT_A_SPEED, UNTIMED_ENGINES, UNTIMED_NOTE
from ..verification import runnable_engines
from .options import add_bundle, add_report, add_threads, print_json

MAX_DATA = 256  # pictures of --data
MAX_COMPARED = 256  # pictures made, which lie beside each other on the sheet
MOST_SECONDS = 60.0  # of one row, after which its pictures are not made again
LABEL_WIDTH = 130  # pixels of the words left of a row of pictures
MIN_SCALE = 56  # pixels: small pictures are enlarged to at least this


@dataclass(frozen=True)
class Compared:
    """One engine and precision.

    Attributes:
        nbytes: of its files.
        peak_memory_bytes: of a process that makes one picture, as the manifest has it.
        bits_per_dim_change, bits_per_dim_change_low, bits_per_dim_change_high: against the first
            row on --data, or against float32 as the manifest has it; the ends of the 95% interval.
        psnr_db, max_abs_error: of the pictures against those of the first row (PSNR with peak 2,
            worst picture); None in the first row and where pictures are equal.
        ms_per_picture: median on this machine, one after another; None where it is not a speed.
        spread: distance of the quartiles over it; trust, trust_reasons: whether to believe it.
    """

    engine: str
    precision: str
    nbytes: int
    peak_memory_bytes: int | None
    bits_per_dim_change: float | None
    bits_per_dim_change_low: float | None
    bits_per_dim_change_high: float | None
    psnr_db: float | None
    max_abs_error: float | None
    ms_per_picture: float | None = None
    spread: float | None = None
    trust: Trust | None = None
    trust_reasons: tuple[str, ...] = ()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_bundle(parser)
    parser.add_argument(
        "--images", type=Path, metavar="FILE.png", help="write a sheet, one row for each precision"
    )
    parser.add_argument(
        "--data", type=Path, metavar="PATH", help="real pictures for bits/dim: folder, .npy, .npz"
    )
    parser.add_argument(
        "-n", type=int, default=8, dest="num_images", metavar="N", help="pictures (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the first picture (%(default)s)")
    parser.add_argument("--engine", help="only this engine (all that are installed)")
    add_threads(parser)
    add_report(parser)


def run(arguments: argparse.Namespace) -> int:
    if not 1 <= arguments.num_images <= MAX_COMPARED:
        raise UsageError(f"-n {arguments.num_images} is not between 1 and {MAX_COMPARED}")
    if arguments.images:
        if arguments.images.suffix.lower() != ".png":
            raise UsageError(f"--images {arguments.images}: the sheet is a PNG, name it FILE.png")
        check_file(arguments.images)
    progress = ProgressLine(not arguments.quiet)
    with Bundle.open(arguments.bundle) as bundle:
        if arguments.images and bundle.spec.image.in_channels not in MODES:
            raise UsageError(
                f"--images: a model of {bundle.spec.image.in_channels} channels makes no pictures"
            )
        if arguments.data:
            check_readable(arguments.data, "--data", folder=True)
        comparison = _Comparison(bundle, arguments, progress)
        rows, pictures = [], []
        for row, images in comparison.rows():
            rows.append(row)
            pictures.append(to_uint8(images) if arguments.images else None)
    progress.clear()
    # printed first: a full disk loses the sheet alone
    if arguments.json:
        rest = {"rows": [asdict(row) for row in rows], "conditions": time_remarks([])}
        print_json({"against": comparison.words, **rest})
    else:
        print(comparison_table(rows))
        print("\n".join([*time_remarks(rows), comparison.words]))
    if arguments.images:
        labels = [f"{made_for(row.engine)} {row.precision}" for row in rows]
        sheet = contact_sheet([p for p in pictures if p is not None], labels)
        with atomic_file(arguments.images) as file:
            sheet.save(file, format="PNG")
        if not arguments.json:
            print(arguments.images)
    return 0


class _Comparison:
    def __init__(
        self, bundle: Bundle, arguments: argparse.Namespace, progress: ProgressLine
    ) -> None:
        self.bundle, self.arguments, self.progress = bundle, arguments, progress
        self.seeds = range(arguments.seed, arguments.seed + arguments.num_images)
        classes = bundle.spec.num_classes
        self.labels = [i % classes if classes else None for i in range(len(self.seeds))]
        self.jobs = self._jobs()
        name, precision = self.jobs[0]
        self.words = f"pictures of seeds {self.seeds[0]} to {self.seeds[-1]} against {name} "
        self.words += precision
        self.data: tuple[Floats, list[int | None]] | None = None
        if arguments.data:
            self.data = self._read(arguments.data)
            self.words += f"; bits/dim of {len(self.data[0])} pictures of {arguments.data.name}"
            self.words += few_pictures(len(self.data[0]))
        else:
            self.words += "; bits/dim as measured at export, against float32"

    def rows(self) -> Iterator[tuple[Compared, Floats]]:
        """Each row with its pictures [N, C, H, W]; the first is what others are compared with."""
        sizes = {(f.engine, f.precision): f.disk_bytes for f in footprints(self.bundle.manifest)}
        first: tuple[Floats, Floats | None] | None = None
        for number, (name, precision) in enumerate(self.jobs):
            self.progress.update(number / len(self.jobs), f"{name} {precision}")
            options = EngineOptions(precision, threads=self.arguments.threads)
            plan = default_plan(self.bundle, name, precision)
            running = find_engine(name)(self.bundle, options)
            try:
                flow = Flow(self.bundle, running, plan)
                images, series = self._generate(flow)
                bits = self._bits(flow)
            finally:
                running.close()
            psnr = error = None
            if first:
                found = psnr_db(images, first[0])
                psnr = found if np.isfinite(found) else None
                error = max_abs_error(images, first[0])
            change = self._change(name, precision, bits, first and first[1])
            size, peak = sizes[made_for(name), precision], self._peak_memory(name, precision)
            row = Compared(name, precision, size, peak, *change, psnr, error)
            yield _timed(row, series), images
            first = first or (images, bits)

    def _jobs(self) -> list[tuple[str, str]]:
        """What runs here, float32 first."""
        found: list[tuple[str, str]] = []
        left_out: dict[str, str] = {}
        for name, precision, why_not in runnable_engines(self.bundle):
            if self.arguments.engine not in (None, name):
                continue
            if why_not:
                left_out[f"{name} {precision}"] = why_not
            else:
                found.append((name, precision))
        if not found:
            only = f" for the engine {self.arguments.engine}" if self.arguments.engine else ""
            missing = "; ".join(f"{what}: {why}" for what, why in left_out.items())
            end = f" ({missing})" if missing else ""
            raise UsageError(f"{self.bundle.manifest.name} has nothing{only} that runs here{end}")
        for what, why in left_out.items():
            self.progress.note(f"{what} is left out: {why}")
        return sorted(found, key=lambda job: job[1] != "fp32")

    def _read(self, path: Path) -> tuple[Floats, list[int | None]]:
        images, labels = read_labelled(path, self.bundle.spec.image, MAX_DATA)
        return images, list(labels) if labels is not None else [None] * len(images)

    def _generate(self, flow: Flow) -> tuple[Floats, Series]:
        """Pictures and their milliseconds; the first picture, made once more, warms up.

        They are made again until there are times enough to be trusted.
        """
        flow.generate(seed=self.seeds[0], label=self.labels[0])
        found, times = [], []
        watch, begin, span = Watch(), time.perf_counter(), 0.0
        for number in itertools.count():
            at = number % len(self.seeds)
            start = time.perf_counter()
            images = flow.generate(seed=self.seeds[at], label=self.labels[at]).images
            times.append(1000 * (time.perf_counter() - start))
            watch.sampled()
            span = time.perf_counter() - begin
            if number < len(self.seeds):
                found.append(images)
            if len(found) == len(self.seeds) and self._is_enough(flow, len(times), span):
                break
        return np.concatenate(found), series_of(times, watch.disturbances(), span)

    @staticmethod
    def _is_enough(flow: Flow, samples: int, span: float) -> bool:
        enough = samples >= TRUSTED_SAMPLES and span > MIN_SECONDS
        return enough or span > MOST_SECONDS or flow.engine.info.name in UNTIMED_ENGINES

    def _bits(self, flow: Flow) -> Floats | None:
        if self.data is None:
            return None
        images, labels = self.data
        known = flow.spec.training_noise.kind != "unknown"
        found = flow.log_likelihood(images, label=labels, noise="train" if known else "none")
        return np.asarray(found.bits_per_dim, np.float64)

    def _peak_memory(self, name: str, precision: str) -> int | None:
        measured = _measured(self.bundle.manifest.quality, made_for(name), precision)
        return measured.peak_memory_bytes if measured else None

    def _change(
        self, name: str, precision: str, bits: Floats | None, reference: Floats | None
    ) -> tuple[float | None, float | None, float | None]:
        """Mean and the ends of its 95% interval."""
        if bits is not None:
            if reference is None:
                return 0.0, None, None
            differences = bits - reference
            mean, count = float(differences.mean()), len(differences)
            if count < 30:  # too few for the normal quantile below
                return mean, None, None
            half = 1.96 * float(differences.std(ddof=1)) / count**0.5
            return mean, mean - half, mean + half
        measured = _measured(self.bundle.manifest.quality, made_for(name), precision)
        if measured is None:
            return None, None, None
        return (
            measured.bits_per_dim_change,
            measured.bits_per_dim_change_low,
            measured.bits_per_dim_change_high,
        )


def _timed(row: Compared, series: Series) -> Compared:
    if row.engine in UNTIMED_ENGINES:
        return row
    trust, reasons = judge(series)
    middle, spread = median(series.samples), relative_iqr(series.samples)
    return replace(row, ms_per_picture=middle, spread=spread, trust=trust, trust_reasons=reasons)


def _measured(quality: tuple[Quality, ...], engine: str, precision: str) -> Quality | None:
    return next((q for q in quality if (q.engine, q.precision) == (engine, precision)), None)


def comparison_table(rows: list[Compared]) -> str:
    """For people; the size is also given as a part of the first row's."""
    header = ["engine", "precision", "size", "", "peak memory", "bits/dim", "95% interval"]
    header += ["PSNR dB", "max_abs_error", "ms/picture", "spread", "trust"]
    return format_table(header, [_cells(row, rows[0].nbytes) for row in rows])


def _cells(row: Compared, first_bytes: int) -> list[str]:
    low, high = row.bits_per_dim_change_low, row.bits_per_dim_change_high
    change = row.bits_per_dim_change
    return [
        row.engine,
        row.precision,
        format_bytes(row.nbytes),
        f"{row.nbytes / first_bytes:.1%}",
        format_bytes(row.peak_memory_bytes) if row.peak_memory_bytes is not None else "-",
        format_number(change, "+.5f") if change is not None else "-",
        format_interval(low, high),
        f"{row.psnr_db:.1f}" if row.psnr_db is not None else "-",
        f"{row.max_abs_error:.1e}" if row.max_abs_error is not None else "-",
        NOT_A_SPEED if row.ms_per_picture is None else f"{row.ms_per_picture:.1f}",
        "-" if row.spread is None else f"{row.spread:.0%}",
        row.trust or "-",
    ]


def time_remarks(rows: list[Compared]) -> list[str]:
    """Under which conditions the times were taken, and why they are not all trusted."""
    found = [f"times: {describe(usable_cores())}; the rows ran one after another, no verdict"]
    found[0] += " on which is faster: flowship bench lets them take turns"
    names = {row: f"{row.engine} {row.precision}" for row in rows}
    found += in_few_lines((names[row], row.trust, row.trust_reasons) for row in rows)
    untimed = [names[row] for row in rows if row.engine in UNTIMED_ENGINES]
    return found + [f"{name}: {UNTIMED_NOTE}" for name in untimed]


def contact_sheet(rows: list[Bytes], labels: list[str]) -> Image.Image:
    """Rows of pictures, each [N, C, H, W], with words left of them."""
    scale = max(1, -(-MIN_SCALE // rows[0].shape[-1]))
    strips = []
    for pictures in rows:
        large = pictures.repeat(scale, axis=2).repeat(scale, axis=3)
        strips.append(grid(large, columns=len(large), padding=4))
    height, width = strips[0].shape[1] + 4, strips[0].shape[2]
    sheet = Image.new("RGB", (LABEL_WIDTH + width, height * len(rows)), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (strip, label) in enumerate(zip(strips, labels, strict=True)):
        top = number * height
        pixels = strip.transpose(1, 2, 0)
        picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        sheet.paste(picture.convert("RGB"), (LABEL_WIDTH, top))
        draw.text((4, top + height // 2 - 6), label, "black")
    return sheet

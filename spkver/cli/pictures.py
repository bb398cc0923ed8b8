"""The verbs of the ``spkver`` command that draw: ``plot``, ``animate``, ``report``.

As in ``cli.py``, heavy imports stand inside the verbs.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from spkver.errors import SpkverError


def plot_margin(options) -> None:
    """Draw how a margin works: angles, logits, decision boundaries, the loss."""
    from spkver.pictures import margin

    margin.check_margins(options.margin, options.scale)
    if options.interactive:
        from spkver.pictures.margin_page import write_margin_page

        print(write_margin_page(options.interactive, options.margin[0], options.scale[0]))
        return
    takes_scale = ("logits", "landscape")
    for name, draw in margin.PICTURES.items():
        scales = {"scales": options.scale} if name in takes_scale else {}
        print(draw(options.margin, **scales).save(options.out / f"margin_{name}.{options.format}", options.dpi))


def plot_run(options) -> int:
    """Draw how a run went, one file a picture; what it has no data for is said and left out."""
    from spkver.pictures import Run

    run = Run(options.exp)
    out = options.out or run.folder / "pictures"
    unknown = sorted(set(options.only or ()) - set(Run.PICTURES))
    if unknown:
        raise SpkverError(f"--only {unknown[0]}: choose among {', '.join(Run.PICTURES)}")
    drawn = 0
    for name in options.only or Run.PICTURES:
        try:
            picture = Run.PICTURES[name](run)
        except SpkverError as error:
            print(f"no {name}: {error}", file=sys.stderr)
            continue
        print(picture.save(out / f"{name}.{options.format}", options.dpi))
        drawn += 1
    return 0 if drawn else 1


def plot_det(options) -> None:
    """Draw the DET curves of several experiments in one figure."""
    from spkver.pictures import Run
    from spkver.pictures.detection import det_curves
    from spkver.pictures.run_data import by_name

    runs = by_name([Run(exp) for exp in options.exps])
    found = {name: run.scores() for name, run in runs.items()}
    there = dict.fromkeys(system.split(", ")[-1] for systems in found.values() for system in systems)
    wanted = options.systems or list(there)
    chosen = {
        name: {system: both for system, both in systems.items() if system.split(", ")[-1] in wanted}
        for name, systems in found.items()
    }
    if not any(chosen.values()):
        raise SpkverError(f"plot det: no system {', '.join(wanted)}; there are {', '.join(there)}")
    picture = det_curves(chosen, runs[next(iter(runs))].config.scoring.p_targets)
    print(picture.save(options.out / f"det.{options.format}", options.dpi))


def plot_architecture(options) -> None:
    """Draw what a model is made of, with shapes and parameter counts."""
    from spkver.experiment.model_folder import model_folder
    from spkver.pictures.architecture import architecture

    picture = architecture(model_folder(options.model))
    print(picture.save(options.out / f"architecture.{options.format}", options.dpi))


def animate(options) -> None:
    """Animate how embeddings move while runs train, by one method or several, side by side."""
    from spkver.pictures import Run, show_animations
    from spkver.pictures import animate as animation_of

    given = {name: getattr(options, name) for name in _PROJECTION if getattr(options, name) is not None}
    runs = [Run(exp) for exp in options.exps]
    animations = [
        animation_of(run, method, speakers=options.speakers, **given) for run in runs for method in options.method
    ]
    if options.denoise:
        animations = [animation.denoise(options.denoise) for animation in animations]
    motion = show_animations(
        [
            animation.interpolate(options.steps_per_transition)
            if options.steps_per_transition
            else animation.in_frames(options.frames)
            for animation in animations
        ],
        options.titles,
        options.cols,
        tuple(options.figsize_per_plot),
        options.shared_axes,
        options.confusion,
        options.annotate_confusion_matrix,
    )
    out = options.out or runs[0].folder / "pictures" / f"{'_'.join(options.method)}.gif"
    print(motion.save(out))
    if options.npz:
        print(motion.save(out.with_suffix(".npz")))
    if options.png:
        print(motion.save_frames(out.with_suffix("")))


# Options of `animate` that are its methods': given as they are, those that are not given have its defaults.
_PROJECTION = ("window_size", "fit_basis", "tsne_update", "n_neighbors", "min_dist", "metric")


def report(options) -> None:
    """Write one page about runs that opens from disk, with everything in it."""
    from spkver.pictures import Run
    from spkver.pictures.report import write_report

    out = options.out or options.exps[0] / "report.html"
    runs = [Run(exp) for exp in options.exps]
    path, left_out = write_report(out, runs, options.method, options.audio, options.audio_megabytes)
    for line in left_out:
        print(line, file=sys.stderr)
    print(path)


def add_picture_verbs(verbs, verb: Callable) -> None:
    """Add the verbs to the command.

    Args:
        verbs: the command's sub-parsers.
        verb: ``verb(name, function, parent=verbs)`` adds the parser of one and returns it.
    """
    plot = verbs.add_parser("plot", help="draw margins, runs, DET curves, a model")
    subjects = plot.add_subparsers(title="subjects", metavar="SUBJECT", required=True)
    added = verb("margin", plot_margin, subjects)
    added.add_argument(
        "--margin", type=float, nargs="+", default=[0.2, 0.5], help="margins to draw, in radians (default: 0.2 0.5)"
    )
    added.add_argument(
        "--scale", type=float, nargs="+", default=[32.0], help="scales that the cosines are multiplied by (default: 32)"
    )
    added.add_argument(
        "--interactive",
        type=Path,
        metavar="PAGE.html",
        help="instead of pictures: a page with sliders for margin and scale, which start at the first of each",
    )
    _add_out(added, Path("pictures"))
    added = verb("run", plot_run, subjects)
    added.add_argument("exp", type=Path, help="folder of the experiment")
    added.add_argument(
        "--only", nargs="+", metavar="PICTURE", help="pictures to draw, such as records det (default: all)"
    )
    _add_out(added, None)
    added = verb("det", plot_det, subjects)
    added.add_argument("exps", nargs="+", type=Path, metavar="exp", help="folders of the experiments")
    added.add_argument(
        "--systems", nargs="+", metavar="NAME", help="systems to draw, such as cosine cosine+asnorm (default: all)"
    )
    _add_out(added, Path("pictures"))
    added = verb("architecture", plot_architecture, subjects)
    added.add_argument("model", type=Path, help="model folder, or an experiment that has one")
    _add_out(added, Path("pictures"))

    _add_animate(verb("animate", animate))

    added = verb("report", report)
    added.add_argument("exps", nargs="+", type=Path, metavar="exp", help="folders of the experiments")
    added.add_argument(
        "--out",
        type=Path,
        metavar="PAGE.html",
        help="the page to write (default: EXP/report.html of the first experiment)",
    )
    added.add_argument(
        "--method",
        default="pca",
        help="projection of the map of embeddings: pca, pca-window, tsne, umap, mphate (default: pca)",
    )
    added.add_argument(
        "--audio",
        action="store_true",
        help="put audio into the page: of the map's points and of the trials that are most wrong",
    )
    added.add_argument(
        "--audio-megabytes", type=float, default=5.0, help="with --audio: at most so many megabytes of it (default: 5)"
    )


def _add_animate(added: argparse.ArgumentParser) -> None:
    added.add_argument("exps", nargs="+", type=Path, metavar="exp", help="folders of the experiments, side by side")
    methods = "projections, side by side: pca, pca-window, tsne, umap, mphate; sphere for 3-D embeddings"
    added.add_argument("--method", nargs="+", default=["pca"], metavar="METHOD", help=f"{methods} (default: pca)")
    added.add_argument(
        "--fit-basis",
        choices=("all", "window"),
        help="pca: one plane for all epochs, or that of an epoch and its neighbours (default: all)",
    )
    added.add_argument("--window-size", type=int, metavar="N", help="pca: snapshots in a window (default: 16)")
    added.add_argument(
        "--tsne-update",
        type=float,
        metavar="SHARE",
        help="tsne: share of the way from the frame before to its own map that a frame goes (default: 0.2)",
    )
    added.add_argument(
        "--n-neighbors", type=int, metavar="N", help="umap: neighbours of a point that are kept near it (default: 20)"
    )
    added.add_argument(
        "--min-dist",
        type=float,
        metavar="D",
        help="umap: how near to one another points may lie, 0 to 1 (default: 0.2)",
    )
    added.add_argument(
        "--metric", choices=("cosine", "euclidean"), help="tsne and umap: distance of embeddings (default: cosine)"
    )
    added.add_argument(
        "--speakers",
        choices=("all", "train", "held_out"),
        default="all",
        help="whose embeddings are shown (default: all)",
    )
    added.add_argument(
        "--denoise",
        nargs="?",
        type=int,
        const=3,
        metavar="N",
        help="running mean of the places over N epochs, an odd number (default where given without one: 3)",
    )
    added.add_argument(
        "--steps-per-transition", type=int, metavar="N", help="frames from an epoch to the next, instead of --frames"
    )
    added.add_argument(
        "--frames", type=int, default=60, help="how many frames, interpolated between the epochs (default: 60)"
    )
    added.add_argument(
        "--confusion",
        "--add-confusion-matrix",
        action="store_true",
        help="show the confusion matrix of the training speakers beside the embeddings",
    )
    added.add_argument(
        "--annotate-confusion-matrix", action="store_true", help="with --confusion: write the counts into its cells"
    )
    added.add_argument(
        "--titles", "--custom-titles", nargs="+", metavar="TITLE", help="above the panels (default: method and run)"
    )
    added.add_argument("--cols", type=int, default=3, help="panels in a row (default: 3)")
    added.add_argument(
        "--figsize-per-plot",
        nargs=2,
        type=float,
        default=(5.0, 5.0),
        metavar=("W", "H"),
        help="width and height of a panel in inches of 100 pixels (default: 5 5)",
    )
    added.add_argument("--shared-axes", action="store_true", help="let all panels reach equally far")
    added.add_argument(
        "--out",
        type=Path,
        help="file to write: a .gif, or an .mp4, which needs ffmpeg (default: EXP/pictures/METHOD.gif)",
    )
    added.add_argument("--png", action="store_true", help="write each frame as a file as well")
    added.add_argument("--npz", action="store_true", help="write the places of all frames as numbers as well")


def _add_out(parser: argparse.ArgumentParser, default: Path | None) -> None:
    where = "EXP/pictures" if default is None else default
    parser.add_argument(
        "--out", type=Path, metavar="DIR", default=default, help=f"folder that gets the pictures (default: {where})"
    )
    parser.add_argument(
        "--format",
        choices=("png", "svg", "pdf"),
        default="png",
        help="format of the pictures: png, svg or pdf (default: png)",
    )
    parser.add_argument(
        "--dpi", type=float, default=110, help="dots an inch of a png: 110 for a screen, 300 for print (default: 110)"
    )

"""python -m kdcourse: versions, device, folders, and one distillation from end to end."""

import importlib.metadata
import platform

import kdcourse as kd
from kdcourse import _files
from kdcourse._machine import default_device, where


def main() -> None:
    """Print what is installed, then distil one student on glyphs (about a minute on two cores)."""
    versions = [f"{name} {importlib.metadata.version(name)}"
                for name in ("kdcourse", "torch", "torchvision", "timm", "accelerate")]
    print("versions:", ", ".join(versions), f"on Python {platform.python_version()}")
    print("device:  ", where(str(default_device()))["hardware"])
    print("kept in: ", _files.home(), "(set KDCOURSE_HOME to change it)")

    data = kd.data.glyphs(train=4000, seed=0)
    teacher = kd.teacher("glyphs")
    print(f"\nteacher:  {teacher.card['accuracy']:.1%} right on its validation images")
    scheme = kd.Distiller(kd.models.convnet(seed=0), kd.Cached(teacher, data),
                          kd.losses.hinton(T=4, alpha=0.9))
    recipe = kd.Recipe(epochs=60, lr=0.32, validate_every=5)  # the rate is tuned in chapter 1
    history = kd.fit(scheme, data, recipe, seed=0, label="student")
    print(f"student:  {history}")
    if not history.interrupted:
        print("\n" + repr(kd.report(scheme, data)))
        print("\nWhat would labels alone have given? One seed proves nothing: "
              "notebooks/01_hinton.ipynb\nhas five, the undistilled student and the controls.")


if __name__ == "__main__":
    main()

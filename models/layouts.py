"""The only owner of other people's checkpoint layouts: what files are known by, and the rules that they leave out.

Every network here is a ResNet in torchvision's naming or a dialect of it. The facts are read from the official code:
LijieFan/AdvCL, yqy2001/A-InfoNCE, Kim-Minseon/RoCL, VITA-Group/Adversarial-Contrastive-Learning, PKU-ML/DYNACL,
GodXuxilie/Enhancing_ACL_via_AIR, pantheon5100/DeACL, vturrisi/solo-learn, lightly-ai/lightly, torchvision.
"""

import re
from collections.abc import Collection

from robustcl.models.architectures.resnet import Stem
from robustcl.models.errors import UserError, unknown
from robustcl.models.value import value

Constants = tuple[tuple[float, ...], tuple[float, ...]]

RAW: Constants = ((), ())  # the network sees images in [0, 1] as they are
IMAGENET: Constants = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CIFAR: Constants = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))

RENAMES = (  # names in the encoder, in this order, to those of robustcl
    (r"\.bn_list\.(\d+)\.", r".branches.\1."),
    (r"\.bn_list\.", r"."),
    (r"^conv1\.", r"stem.0."),
    (r"^bn1\.", r"stem.1."),
    (r"^layer1\.", r"stages.0."),
    (r"^layer2\.", r"stages.1."),
    (r"^layer3\.", r"stages.2."),
    (r"^layer4\.", r"stages.3."),
    (r"\.(downsample|shortcut)\.(0|conv)\.", r".shortcut.0."),
    (r"\.(downsample|shortcut)\.(1|bn)\.", r".shortcut.1."),
)
SEQUENTIAL = {  # a network that was cut into nn.Sequential(*children), by whether it has a ReLU and a max-pool in it
    "2.0.": ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4"),
    "4.0.": ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"),
}
HEADS = (
    re.compile(  # first parts of names beside the encoder: linear heads, projectors, predictors, their momentum copies
        r"((momentum_|online_)?(classifier|projector|predictor|head)(_adv|_momentum)?|fc(_\d+)?|linear(_[12])?|"
        r"head_(ce|proj|pred)|(projection|prediction)_head(_momentum)?|prototypes|queue\w*|criterion)(\.|$)"
    )
)
COPIES = (  # prefixes of encoders that stand beside the one that is used: momentum copies, teachers
    "encoder_q.",
    "encoder_k.",
    "momentum_backbone.",
    "momentum_encoder.",
    "backbone_momentum.",
    "target_backbone.",
    "teacher_backbone.",
)


@value
class Layout:
    """A project's way to store an encoder, and what its code knows that its files do not say.

    `signs`: a file is of this layout where, for one of these lists, each pattern is found in some name (`!`: in none).
    `prefixes`: where the encoder lies, the preferred first. `routes`: the branches of each batch norm in official
    order; `single` is the route of a file that has one branch. `stem` is that of a 3x3 first convolution, whose padding
    is in no file; a 7x7 one is ImageNet's with its max-pool. `constants` normalise the input, those of 7x7 where the
    first convolution is so large (None: this project has none such); a file that holds its own as `normalize.mean` is
    believed before. `stores`: those that this project's files hold.
    """

    name: str
    signs: tuple[tuple[str, ...], ...]
    prefixes: tuple[str, ...] = ("",)
    routes: tuple[str, ...] = ("normal",)
    single: str = "normal"
    stem: Stem = "3x3"
    constants: Constants = RAW
    constants_7x7: Constants | None = None
    stores: Constants | None = None

    def known_by(self, names: Collection[str]) -> bool:
        """Whether names of tensors, DataParallel's `module.` apart, are those of this layout."""
        return any(all(_stands(sign, names) for sign in signs) for signs in self.signs)

    @property
    def said(self) -> str:
        """What it is, for people."""
        given = "raw images" if self.constants == RAW else f"images normalised by mean {self.constants[0]}"
        given = "images normalised by what the file holds" if self.stores else given
        return f"routes {', '.join(self.routes)}; 3x3 stem padded by {2 if self.stem == '3x3-pad2' else 1}; {given}"

    def rules(self, kernel: int) -> tuple[Stem, Constants] | None:
        """The stem and the constants where the first convolution is so large; None where it never is."""
        if kernel == 7:
            return None if self.constants_7x7 is None else ("7x7", self.constants_7x7)
        return self.stem, self.constants


# Patterns of names, and the lists of them that projects share.
BRANCHED, STORED, PLAIN = r"\.bn_list\.", r"^(backbone\.)?normalize\.mean$", r"^layer\d\.\d+\.downsample\.[01]\."
WITHIN, SOLO = r"^(backbone|encoder)\.conv1\.", r"^(classifier|projector|predictor|momentum_|queue)"
LIGHTLY, ADVCL = r"^((projection|prediction)_head|online_classifier)", r"^head_proj\."
BARE = (f"!{BRANCHED}", f"!{STORED}")
ADVCL_SIGNS = ((r"\.bn_list\.2\.", f"!{STORED}"), (ADVCL, *BARE), (PLAIN, *BARE))
ACL_SIGNS = ((BRANCHED, STORED), (PLAIN, STORED, f"!{BRANCHED}"))
VISION_SIGNS = ((PLAIN, f"!{ADVCL}", *BARE),)


def _advcl(name: str) -> Layout:
    return Layout(name=name, signs=ADVCL_SIGNS, routes=("normal", "pgd", "pgd_ce"), single="pgd")


def _acl(name: str, *signs: tuple[str, ...], prefixes: tuple[str, ...] = ("",)) -> Layout:
    return Layout(
        name=name,
        signs=(*signs, *ACL_SIGNS),
        prefixes=prefixes,
        routes=("normal", "pgd"),
        single="pgd",
        constants=IMAGENET,
        constants_7x7=IMAGENET,
        stores=IMAGENET,
    )


def _vision(name: str) -> Layout:
    rest = ("", "encoder_q.", "backbone.", "encoder.", "model.", "net.", "online_encoder.")
    return Layout(name=name, signs=VISION_SIGNS, prefixes=rest, constants=IMAGENET, constants_7x7=IMAGENET)


LAYOUTS = (
    _advcl("advcl"),
    _advcl("a_infonce"),
    Layout(name="rocl", signs=((r"^layer\d\.\d+\.shortcut\.", f"!{ADVCL}", *BARE),)),
    _acl("acl"),
    _acl("dynacl", (r"^encoder_k\.", BRANCHED), prefixes=("encoder_k.", "")),
    _acl("air"),
    Layout(  # its ResNet-18 normalises in the network; its ResNet-50 is torchvision's, which gets the CIFAR stem alone
        name="deacl",
        signs=((WITHIN, STORED), (WITHIN, r"^classifier_adv\."), (PLAIN, STORED, f"!{BRANCHED}")),
        prefixes=("backbone.", ""),
        stem="3x3-pad2",
        stores=((0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261)),
    ),
    _vision("torchvision"),
    _vision("timm"),
    Layout(
        name="solo_learn",
        signs=((WITHIN, f"!{LIGHTLY}", r"!^classifier_adv\.", *BARE), (PLAIN, f"!{ADVCL}", *BARE)),
        prefixes=("backbone.", "encoder.", ""),
        stem="3x3-pad2",
        constants=CIFAR,
        constants_7x7=IMAGENET,
    ),
    Layout(
        name="lightly",
        signs=((r"^(backbone\.)?\d\.\d\.conv1\.",), (WITHIN, f"!{SOLO}", *BARE)),
        prefixes=("backbone.", ""),
        constants=IMAGENET,
        constants_7x7=IMAGENET,
    ),
)


def _stands(sign: str, names: Collection[str]) -> bool:
    pattern = re.compile(sign.removeprefix("!"))
    return any(pattern.search(name) for name in names) != sign.startswith("!")


def find_layout(name: str, where: str) -> Layout:
    """The layout of this name. Errors: `UserError` with the nearest name."""
    known = {layout.name: layout for layout in LAYOUTS}
    if name not in known:
        raise unknown(where, "layout", name, [*known, "robustcl"])
    return known[name]


def recognise(names: Collection[str], kernel: int, stored: Constants | None, where: str) -> tuple[Layout, ...]:
    """The layouts that a file fits: one, or several whose rules are the same for it, of which the first is used.

    `kernel` is the size of its first convolution, `stored` the constants that it holds.
    Errors: `UserError` where none fits, or several that would make other features of the same tensors.
    """
    fitting = [layout for layout in LAYOUTS if layout.known_by(names) and layout.rules(kernel)]
    if stored and len({layout.rules(kernel) for layout in fitting}) > 1:
        fitting = [layout for layout in fitting if layout.stores and _near(layout.stores, stored)] or fitting
    if not fitting:
        some = ", ".join(sorted(names)[:3])
        raise UserError(f"{where}: of no known layout ({some}, ...), expected one of {_names(LAYOUTS)}; set layout")
    if len({layout.rules(kernel) for layout in fitting}) > 1:
        raise UserError(
            f"{where}: fits {_names(fitting)}, which differ in what the file does not say (padding of the stem, "
            "normalisation of the input), expected layout = one of them"
        )
    return tuple(fitting)


def _near(one: Constants, other: Constants) -> bool:
    """Whether both have as many channels and the same numbers, up to the rounding of a float32 file."""
    same = [len(a) == len(b) for a, b in zip(one, other, strict=True)]
    return all(same) and all(
        abs(x - y) < 1e-4 for a, b in zip(one, other, strict=True) for x, y in zip(a, b, strict=True)
    )


def _names(layouts: Collection[Layout]) -> str:
    return ", ".join(layout.name for layout in layouts)

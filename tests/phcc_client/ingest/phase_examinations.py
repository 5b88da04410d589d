"""Examinations as hospitals export them: descriptions, times and facts, with what each series is.

What is wanted, per series: ``pre art pv del hbp`` used as that phase, ``-art`` taken for it and not used,
``other``, ``?`` unsure and not used.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phcc_client.imaging.grid import Grid
from phcc_client.ingest.examination import Series, SeriesFacts

START = datetime(2021, 3, 4, 9, 0, 0)  # a scanner's clock has no zone
Row = tuple[Any, ...]
SHORT = {
    "pre-contrast": "pre",
    "arterial": "art",
    "portal-venous": "pv",
    "delayed": "del",
    "hepatobiliary": "hbp",
    "other": "other",
    None: "none",
}
T1 = {"scanning_sequence": ("GR",), "echo_time_ms": 1.9, "repetition_time_ms": 4.1, "flip_angle_deg": 10.0}


@dataclass(frozen=True, eq=False)
class FakeImage:
    """An image that is never read."""

    slices: int = 72

    def __eq__(self, other: object) -> bool:
        raise AssertionError("images hold arrays, which have no single truth when compared")

    __hash__ = object.__hash__

    @property
    def grid(self) -> Grid:
        return Grid.plain((self.slices, 32, 32), (3.0, 1.2, 1.2))

    @property
    def where(self) -> str:
        return "an image of a test"

    def read(self) -> NDArray[np.float32]:
        raise AssertionError("phases are recognised without voxels")


@dataclass(frozen=True)
class Examination:
    """Rows: (description, seconds after the first or None, what is wanted, further facts)."""

    name: str
    rows: tuple[Row, ...]
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def series(self) -> tuple[Series, ...]:
        return tuple(make(number, *row, **self.facts) for number, row in enumerate(self.rows, start=1))

    @property
    def wanted(self) -> list[str]:
        return [row[2] for row in self.rows]


def make(
    number: int, description: str, at: float | None, _wanted: str = "", own: Any = None, /, **facts: Any
) -> Series:
    """One series; ``slices``, ``uid``, ``study`` and ``defect`` are the series' own,
    the rest its header's."""
    values: dict[str, Any] = {"modality": "MR", "series_number": number, **facts, **(own or {})}
    slices = values.pop("slices", 72)
    uid = values.pop("uid", f"1.2.{number}")
    study = values.pop("study", "1.2")
    defect = values.pop("defect", "")
    start = values.pop("injected", None)
    if start is not None:
        values["contrast_start"] = START + timedelta(seconds=start)
    acquired = None if at is None else START + timedelta(seconds=at)
    header = SeriesFacts(description=description, acquired=acquired, **values)
    return Series(uid, study, None if defect else FakeImage(slices), header, defect=defect)


def exam(name: str, *rows: Row, **facts: Any) -> Examination:
    return Examination(name, rows, facts)


def named(name: str, pattern: str, words: str, *rows: Row, **facts: Any) -> Examination:
    """A dynamic examination whose series are named "word=phase" (separated by commas), at usual times."""
    times = {"pre": 0.0, "art": 95.0, "pv": 140.0, "del": 260.0, "hbp": 1290.0}
    pairs = [tuple(pair.rsplit("=", 1)) for pair in words.split(",")]
    own = tuple(
        (pattern.replace("{}", word.strip()), times[wanted.strip("-")], wanted) for word, wanted in pairs
    )
    return Examination(name, own + rows, {**T1, **facts})


def points(
    description: str, times: list[float | None], wanted: str, uid: str = "1.9", **facts: Any
) -> list[Row]:
    """The time points of one series."""
    return [
        (
            description,
            at,
            want,
            {"uid": uid, "time_points": len(times), "temporal_position": n, **T1, **facts},
        )
        for n, (at, want) in enumerate(zip(times, wanted.split(), strict=True), start=1)
    ]


GD = {"contrast_agent": "Gadovist"}
PRIMOVIST = {"contrast_agent": "Primovist"}

NAMED = (
    named("Siemens, English", "t1_vibe_fs_tra_bh_{}", "pre=pre,art=art,pv=pv,delay=del"),
    named("Siemens, capitals", "T1_VIBE_FS_TRA_{}", "PRE=pre,ART=art,PORTAL=pv,LATE=del"),
    named("Siemens, German", "t1_vibe_fs_tra_{}", "nativ=pre,arteriell=art,portalvenös=pv,spät=del"),
    named("Siemens, German, digraphs", "t1_vibe_tra {}", "nativ=pre,art=art,portalvenoes=pv,spaet 5min=del"),
    named("Siemens, German, short", "T1 Vibe {}", "vor KM=pre,art KM=art,ven KM=pv,spät KM=del"),
    named("Siemens, German, gadoxetate", "t1_vibe_dixon_tra_{}_W",
          "nativ=pre,art=art,pv=pv,transitional=del,hepatobiliär 20min=hbp", **PRIMOVIST),
    named("Siemens, German, liver specific", "Vibe {}",
          "ohne KM=pre,spätarteriell=art,venös=pv,Gleichgewicht=del,leberspezifisch=hbp", **PRIMOVIST),
    named("GE", "Ax LAVA {}", "Pre=pre,Arterial=art,Portal Venous=pv,Delayed=del"),
    named("GE, plus C", "{} Ax LAVA-XV", "MASK=pre,ART +C=art,PV +C=pv,EQUIL +C=del"),
    named("GE, LAVA-Flex water", "WATER: Ax LAVA-Flex {}", "Pre=pre,Art=art,PVP=pv,5 min delay=del"),
    named("GE, French", "AX LAVA {}", "SANS INJECTION=pre,ARTERIEL=art,PORTAL=pv,TARDIF=del"),
    named("GE, French, accents", "LAVA {}", "avant injection=pre,artérielle=art,veineux=pv,équilibre=del"),
    named("GE, French, hepatobiliary", "AX LAVA {}",
          "natif=pre,temps artériel=art,temps portal=pv,tardif=del,hépatobiliaire 20 min=hbp", **PRIMOVIST),
    named("Philips", "{} eTHRIVE BH", "Pre=pre,Arterial=art,Portal=pv,Delayed=del"),
    named("Philips, mDIXON water", "mDIXON_W_{}", "pre=pre,late art=art,ven=pv,equilibrium=del"),
    named("Philips, Dutch", "THRIVE {}", "blanco=pre,arterieel=art,portaal=pv,laat=del"),
    named("Philips, Dutch, longer", "eTHRIVE {} BH",
          "zonder contrast=pre,late arteriële fase=art,portaal-veneus=pv,evenwichtsfase=del,leverspecifiek=hbp"),
    named("Philips, Italian", "THRIVE {}",
         "senza mdc=pre,fase arteriosa=art,fase portale=pv,fase tardiva=del"),
    named("Italian, in the phase", "LAVA {}",
         "basale=pre,in fase arteriosa=art,in fase venosa=pv,equilibrio=del"),
    named("Italian, hepatobiliary", "vibe {}",
         "diretta=pre,arteriosa=art,venosa=pv,tardiva=del,epatobiliare=hbp"),
    named("Spanish", "T1 LAVA {}", "sin contraste=pre,fase arterial=art,fase portal=pv,fase tardía=del"),
    named("Spanish, del", "VIBE {} del hígado", "simple=pre,fase arterial=art,venosa=pv,equilibrio=del"),
    named("Spanish, hepatobiliary", "T1 VIBE {}",
          "sin civ=pre,arterial=art,portal=pv,transición=del,hepatobiliar 20 min=hbp"),
    named("Portuguese", "LAVA {}", "sem contraste=pre,arterial=art,portal=pv,equilíbrio=del"),
    named("Portuguese, longer", "Ax THRIVE {}",
          "pré contraste=pre,fase arterial tardia=art,fase venosa portal=pv,fase tardia=del,hepatobiliar=hbp"),
    named("Polish", "T1 VIBE {}", "bez kontrastu=pre,faza tętnicza=art,faza wrotna=pv,faza późna=del"),
    named("Polish, longer", "vibe {}",
          "przed kontrastem=pre,tętnicza=art,żylna wrotna=pv,równowagi=del,wątrobowo-żółciowa=hbp"),
    named("Canon", "Quick3D {}", "pre=pre,early arterial=-art,late arterial=art,portal=pv,delayed=del"),
    named("Hitachi", "TIGRE {}", "pre=pre,HAP=art,PVP=pv,delayed 3min=del"),
    named("UIH", "quick_3d_tra {}", "pre=pre,art=art,pv=pv,delay=del"),
    named("Chinese", "LAVA {}", "平扫=pre,动脉期=art,门脉期=pv,延迟期=del,肝胆期=hbp"),
    named("Japanese", "LAVA {}", "造影前=pre,動脈相=art,門脈相=pv,平衡相=del,肝細胞相=hbp"),
    named("LLD-MMRI", "{}", "C-pre=pre,C+A=art,C+V=pv,C+Delay=del"),
    named("short names in a frame", "t1_vibe_fs_tra_{}", "pre=pre,HAP=art,PVP=pv,DP=del"),
    named("numbers at the words", "VIBE {}", "PRE1=pre,ART2=art,PV3=pv,DEL4=del"),
    named("camel case", "T1Vibe{}", "Pre=pre,Arterial=art,Portal=pv,Delayed=del"),
    named("gadobenate, after two hours", "LAVA {}", "pre=pre,art=art,ven=pv,3 min=del,HBP 2h=hbp",
          contrast_agent="MultiHance"),
    named("spoken times", "T1 GRE post Gd {}", "20 sec=art,1min=pv,3min=del",
         ("T1 GRE pre Gd", 0.0, "pre", T1)),
    named("times with an apostrophe", "LAVA {}",
         "senza mdc=pre,arteriosa=art,70''=pv,5'=del,20' epatobiliare=hbp"),
)  # fmt: skip

WITH_OTHERS = (
    exam("a whole Siemens examination",
         ("localizer", 0, "other"), ("t2_haste_cor_bh", 60, "other"), ("t2_haste_fs_tra_mbh", 120, "other"),
         ("t1_vibe_dixon_tra_bh_opp", 200, "other"), ("t1_vibe_dixon_tra_bh_in", 200, "other"),
         ("t1_vibe_dixon_tra_bh_F", 200, "other"), ("t1_vibe_dixon_tra_bh_W", 200, "-pre"),
         ("ep2d_diff_b50_400_800_tra", 300, "other"), ("ep2d_diff_b50_400_800_tra_ADC", 300, "other"),
         ("t1_vibe_fs_tra_pre", 500, "pre", T1), ("care_bolus_cor", 600, "other"),
         ("t1_vibe_fs_tra_art", 640, "art", T1), ("t1_vibe_fs_tra_art_SUB", 640, "other"),
         ("t1_vibe_fs_tra_pv", 680, "pv", T1), ("t1_vibe_fs_tra_5min", 900, "del", T1),
         ("t1_vibe_fs_cor_late", 960, "-del", T1)),
    exam("a whole GE examination",
         ("3-Plane Loc SSFSE", 0, "other"), ("ASSET Calibration", 10, "other"), ("Cor SSFSE", 30, "other"),
         ("Ax Dual Echo FSPGR", 60, "other"), ("Ax T2 FRFSE FS RTr", 100, "other"),
         ("Ax DWI b800", 200, "other"),
         ("ADC (10^-6 mm²/s)", 200, "other"), ("Ax FIESTA", 250, "other"), ("LAVA Mask", 300, "pre", T1),
         ("Ph1/Ax LAVA +C", 400, "art", T1), ("Ph2/Ax LAVA +C", 440, "pv", T1),
         ("Ph3/Ax LAVA +C", 580, "del", T1),
         ("SUB Ph1/Ax LAVA +C", 400, "other"), ("MRCP radial", 700, "other"), ("Screen Save", 800, "other"),
         ("MR Touch", 900, "other"), ("IDEAL IQ", 950, "other")),
    exam("a whole Philips examination",
         ("Survey", 0, "other"), ("SSh TSE T2 cor", 20, "other"), ("T2W_MultiVane", 60, "other"),
         ("DWI_3b", 100, "other"), ("dADC", 100, "other"), ("mDIXON-All IP", 200, "other"),
         ("mDIXON-All OP", 200, "other"), ("mDIXON-All W", 200, "-pre"), ("mDIXON-All F", 200, "other"),
         ("BTFE BH", 210, "other"), ("eTHRIVE pre", 300, "pre", T1), ("eTHRIVE art", 400, "art", T1),
         ("eTHRIVE port", 445, "pv", T1), ("eTHRIVE equi 3min", 600, "del", T1),
         ("mDIXON Quant", 700, "other"),
         ("MIP eTHRIVE art", 400, "other"), ("Reg - eTHRIVE art MPR", 400, "other")),
    exam("other by the header alone",
         ("series a", 0, "other", {"b_value": 800.0}),
         ("series b", 5, "other", {"scanning_sequence": ("EP", "SE")}),
         ("series c", 9, "other", {"echo_time_ms": 92.0, "scanning_sequence": ("SE",)}),
         ("series d", 12, "other", {"image_type": ("ORIGINAL", "PRIMARY", "IN_PHASE")}),
         ("series e", 15, "other", {"image_type": ("DERIVED", "SECONDARY", "MPR"), "derived": True}),
         ("series f", 17, "other", {"sequence": "*h2d1_192"}), ("series g", 19, "other", {"modality": "CT"}),
         ("series h", 21, "other", {"protocol": "T2_HASTE"}),
         ("series i", 23, "other", {**T1, "repetition_time_ms": 130.0}),
         ("series k", 27, "other", {"echo_time_ms": 30.0}),
         ("series l", 29, "other", {"image_type": ("ORIGINAL", "PRIMARY", "SW_P_FFE", "SW_P")}),
         ("series j", 25, "other", {"scanning_sequence": ("SE",), "echo_time_ms": 12.0})),
    exam("bolus tracking in the name", ("t1_vibe_bh_care-bolus_art_W", 90, "art", T1),
         ("care bolus", 80, "other"),
         ("SmartPrep", 70, "other")),
    exam("the pre of the same sequence", ("t1_vibe_dixon_pre_W", 0, "-pre", {**T1, "echo_time_ms": 1.3}),
         ("t1_vibe_fs_pre", 30, "pre", T1), ("t1_vibe_fs_art", 90, "art", T1), ("t1_vibe_fs_pv", 140, "pv", T1)),
    exam("words that are no words",
         ("start of exam", 0, "?"), ("compressed sense", 5, "?"), ("ventral part", 9, "?"),
         ("artefact", 12, "?"),
         ("predicted", 13, "?"), ("hepatocellular carcinoma", 14, "?"), ("delta", 15, "?")),
    exam("T1 mapping is no pre-contrast phase",
         ("T1 map native", 0, "other"), ("MOLLI pre", 5, "other"), ("t1_vibe_B1 map pre", 9, "other"),
         ("T1_map_post HBP", 1200, "other")),
    exam("a subtraction written as a difference", ("ART-PRE", 100, "other"), ("PV - PRE", 150, "other"),
         ("pre", 0, "pre"), ("art", 100, "art"), ("pv", 150, "pv")),
    exam("spectroscopy, angiography, elastography", ("MRS PRESS", 0, "other"), ("CE MRA art", 9, "other"),
         ("gre_elasto", 12, "other"), ("3D TOF", 15, "other"), ("t2_trufi_cor", 20, "other")),
    exam("breath-holds are not times", ("t1_vibe_fs_tra 18 sec BH", 0, "?", T1),
         ("THRIVE BH 20s", 30, "?", T1)),
)  # fmt: skip

"""The words by which people and scanners name a phase, or a sequence that is none.

Written as `phase_words.folded` leaves a text: lower case, no accents. Words are separated by commas; a space
within one stands for any separator or none, ``*`` for any ending. Languages: English, German, French, Spanish,
Italian, Dutch, Portuguese, Polish, and the Chinese and Japanese words in common use. From common usage in liver
MRI, the vendors' names of their sequences and LI-RADS' names of the phases; no list that we know of is complete,
which is why a site may write phases.yaml.
"""

from __future__ import annotations

from phcc_model.config import Phase


def _words(text: str) -> tuple[str, ...]:
    return tuple(" ".join(word.split()) for word in text.split(","))


# fmt: off
PHASE_WORDS: dict[Phase, tuple[str, ...]] = {
    "pre-contrast": _words("""
        pre, precontrast*, pre contrast*, pre gd, pre gad*, pre inj*, pre km, pre mdc, pre civ, pre c,
        pre iv, native, nativ, nativo, nativa, natif, natywn*, plain, unenhanced, unenh, non contrast*,
        noncontrast*, nonenhanced, non enhanced, no contrast, no gad*, without contrast, without gad*,
        without gd, w/o c, w/o contrast, w/o gd, wo contrast, ohne km, ohne kontrast*,
        ohne kontrastmittel, vor km, vor kontrast*, sans injection, sans inj, sans contraste, sans iv,
        sans gado*, avant injection, avant inj, avant contraste, sin contraste, sin civ, sin gado*,
        sin gd, antes de contraste, senza mdc, senza contrasto, prima di mdc, smdc, zonder contrast,
        blanco, voor contrast, sem contraste, s/ contraste, pre contraste, bez kontrastu, bez kontr,
        przed kontrast*, 平扫, 蒙片, 增强前, 造影前, 単純, 単純相
    """),
    "arterial": _words("""
        arterial, art, arterial phase, arteriell*, arteriel*, arteriale, arteriosa, arterioso,
        arterieel, arteriele, arterias, tetnicz*, hepatic arterial, hap, eap, lap, early arterial,
        early art, late arterial, late art, spatarteriell*, spaetarteriell*, fruharteriell*, fruehart*,
        spat arteriell*, spaet arteriell*, spat art, fruh art, arterielle precoce, arterielle tardive,
        arteriel tardif, arterial tardia, arterial tardio, arterial precoz, arterial precoce,
        arteriosa tardiva, arteriosa precoce, late arteriele, vroeg arterieel, laat arterieel,
        pozna tetnicza, wczesna tetnicza, c+a, c+ art*, 动脉, 動脈, 动脉期, 動脈相, 动脉晚期, 動脈後期
    """),
    "portal-venous": _words("""
        portal, portal venous, portal ven, portal vein, portalvenous, portovenous, porto venous, pv,
        pvp, pv phase, ven, venous, venos, venose*, venoes*, veneus, veneuze, veineu*, portalven*,
        portal venos*, portalvenos*, portalvenoes*, portovenos*, porto venos*, portoven, venosa, venoso,
        portale, portalna, portaal, portaalveneus, portaal veneus, portal venosa, portal venoso,
        venosa portal, venoso portale, portale venosa, veineux portal, portal veineux, temps portal,
        fase portal, wrotn*, zyln*, wrotno zyln*, zylna wrotna, portoveneu*, c+v, c+ ven*, c+pv, c+p,
        门脉, 门静脉, 門脈, 門静脈, 静脉, 门脉期, 静脉期, 門脈相
    """),
    "delayed": _words("""
        delayed, equilibrium, equilib*, equil, transitional, transition phase, transition, late phase,
        late dynamic, late venous, interstitial, interstit*, spat, spaet, spatphase, spaetphase,
        spat phase, spatvenos*, spaetvenoes*, spat venos*, gleichgewicht*, aquilibrium*, aequilibrium*,
        verzogert, verzoegert, ubergangsphase, tardif, tardive, tardia, tardio, tardiva, tardivo,
        retarde, retardada, retrasada, veineux tardif, venosa tardia, venoso tardivo, venosa tardiva,
        equilibre, equilibrio, laat, late fase, vertraagd, evenwicht*, transitie*, transizione*,
        transicion*, transicao, opozn*, pozna, faza pozna, rownowag*, przejsciow*, c+d, c+delay*,
        c+ del*, 延迟, 延迟期, 延時, 平衡期, 平衡相, 移行期, 移行相, 遅延, 遅延相, 过渡期
    """),
    "hepatobiliary": _words("""
        hepatobiliar*, hepatobiliary, hepato biliar*, hepatobil, hbp, hbph, hb phase, hb, hepatocyt*,
        hepatozyt*, hepatospezif*, hepatospecif*, hepatocyte specific, hepatobiliair*, hepatobiliaer*,
        leberspezif*, leverspecif*, epatobiliar*, epatospecif*, epatocit*, hepatocito*, hepatoespecif*,
        watrobowo zolciow*, hepatocytarn*, c+hb*, 肝胆, 肝胆期, 肝膽, 肝胆道, 肝細胞相, 肝细胞期,
        肝細胞造影相, 肝特异期
    """),
}
"""A longer name is looked for first, so that "late arterial" is not "late"."""

WEAK_PHASE_WORDS: dict[Phase, tuple[str, ...]] = {
    "pre-contrast": _words("""
        mask, basal, basale, baseline, simple, diretta, s/c, c-, vuoto
    """),
    "delayed": _words("""
        late, del, delay, dly
    """),
}
"""Words that also mean something else: they count where no other word names a phase, and never make it sure."""

AFTER_CONTRAST = _words("""
    post, postcontrast*, post contrast*, post gd, post gad*, post inj*, post iv, post km, post c,
    post mdc, post civ, c+, +c, with contrast, contrast enhanced, ce, enhanced, nach km, mit km, km,
    +km, nach kontrast*, mit kontrast*, gd, +gd, gado*, gad, +gad, avec injection, apres injection,
    apres inj, apres gado*, injecte*, avec contraste, con contraste, con civ, tras contraste, con gado*,
    con mdc, dopo mdc, cmdc, mdc, met contrast, na contrast, com contraste, pos contraste, z kontrastem,
    po kontrascie, 增强, 造影, 造影後, 增强后
""")

DYNAMIC = _words("""
    dyn, dynamic*, dynami*, dinamic*, multiphase, multi phase, mphase, ph, 4d, 动态
""")

BREATH = _words("""
    bh, breath*, breathhold, apnea, apnoe*, atem*, apnee, adem*, wdech*, 息止
""")
"""Beside these, a number of seconds may be the length of a breath-hold."""

OTHER_WORDS: dict[str, tuple[str, ...]] = {
    "a subtraction": _words("""
        sub, subs, subt, subtr*, substr*, soustr*, sustrac*, sottraz*, subtraktion*, minus, digital sub,
        减影, 差分, サブトラクション
    """),
    "a reformation or projection": _words("""
        mpr, mip, minip, min ip, max ip, mpvr, reformat*, refmt, projection*, rekonstr*, curved, vrt,
        volume rendering, 3d rendering, collage, radial range*
    """),
    "a localiser or a calibration": _words("""
        localizer*, localiser*, loc, localisateur, localizador, lokalizator, scout, survey, 3 plane,
        3plane, three plane, 3 pl, tri plane, calibration, calib, asset cal, coil cal, ref scan,
        refscan, senseref*, sense ref*, b0 map, b1 map, shim*, topogram*, reperage, 定位, 位置決め
    """),
    "diffusion": _words("""
        dwi, dw, dti, diff, diffusion*, difusion, difusao, diffusie, diffusione, dyfuzj*, adc, eadc,
        dadc, ep2d*, ivim, dwibs, trace, tracew, resolve, kurtosis, bvalue, b value, calc b, cdwi, 扩散,
        弥散, 拡散
    """),
    "MRCP": _words("""
        mrcp, cholangi*, colangi*, cprm, cpre, bili irm, 胰胆管, 胆管膵管
    """),
    "elastography": _words("""
        mre, elasto*, mr touch, mrtouch, stiffness, shear*, wave image*, 弹性
    """),
    "a balanced sequence": _words("""
        trufi*, true fisp, truefisp, fiesta, bffe, b ffe, btfe, b tfe, balanced, ssfp, bssfp, true ssfp,
        basg, btfe bh
    """),
    "spectroscopy": _words("""
        mrs, spectro*, spektro*, svs, press, steam, histo, csi, hispec*
    """),
    "a map": _words("""
        t1 map*, t1map*, t2 map*, t2map*, molli, shmolli, look locker, looklocker, lookloc*, smart1map,
        t2star, t2 star, r2star, r2 star, r2, pdff, ff, fat fraction, fatfrac*, fettfraktion, ideal iq,
        idealiq, qdixon, q dixon, dixon quant*, mdixon quant*, liverlab, liver lab, screening dixon,
        iron*, eisen, perfusion map*, synt map
    """),
    "in and out of phase": _words("""
        in phase, inphase, in phase image, out phase, outphase, out of phase, outofphase, oop,
        opp phase, opp ph, oppphase, opposed, opposed phase, opposedphase, opposee, op phase, in opp,
        inopp, in out, in op, ip op, ipop, inout, dual echo, dualecho, doppelecho, dual fspgr, dual ffe,
        dual gre, t1 dual, ffe dual, en phase, en fase, in fase, fuera de fase, fuori fase,
        opposition de phase, opposition, fora de fase, inphas*, gegenphas*, 同反相位
    """),
    "T2": _words("""
        t2, t2w, t2wi, haste, ssfse, ss fse, sshtse, ssh tse, ss tse, sstse, frfse, fr fse, single shot,
        singleshot, sshot, hasted, blade, propeller, multi vane, stir, tirm, flair, t2fs, t2spair,
        half fourier, imagen t2, jet, 压脂t2
    """),
    "angiography": _words("""
        mra, angio*, ce mra, cemra, tof, phase contrast, mrv, flow, asl, qflow, inhance, 血管
    """),
    "a picture of the screen, or a report": _words("""
        screen save, screensave*, screenshot*, screen capture, secondary capture, report, key image*,
        presentation state, dose*, protocol page*, patient protocol, phoenixzipreport
    """),
}
"""Stronger than any word for a phase: a subtraction of the arterial phase is a subtraction."""

WEAK_OTHER_WORDS: dict[str, tuple[str, ...]] = {
    "a spin echo": _words("""
        tse, fse, se, turbo spin echo, fast spin echo, space, cube, vista, rare
    """),
    "a map": _words("""
        map*, param*
    """),
    "a localiser or a calibration": _words("""
        plan, cal, shim, test, smartprep, smart prep, care bolus, carebolus, test bolus, testbolus,
        bolus track*, bolustrak, bolus trak, timing bolus, fluoro*, fluoprep, fluotrig*
    """),
    "a reformation or projection": _words("""
        recon, rec, ref, 3d reco*
    """),
}
"""They count where no word names a phase or a dynamic T1 sequence."""

FAMILIES = _words("""
    vibe, lava, thrive, tigre, quick, fame, twist, disco, grasp, isotropic t1, dixon, fspgr, spgr,
    efgre, fgre, flash, fl3d, fl2d, ffe, tfe, gre, t1
""")
"""The vendors' names of T1 gradient echo sequences, the telling ones first."""

CORONAL_SAGITTAL = _words("""
    cor, coronal, koronar*, coro, frontal, sag, sagittal, sagital, 冠状, 矢状
""")

TECHNICAL = _words("""
    t1, t1w, t1wi, vibe, lava, thrive, ethrive, tigre, quick, fame, dixon, mdixon, flex, fspgr, spgr,
    flash, fl3d, fl2d, ffe, gre, 3d, 2d, fs, fatsat, spair, spir, we, fat, sat, tra, tr, ax, axial,
    trans, bh, liver, leber, foie, abd, abdomen, dyn, dynamic, p2, p3, p4, iso, caipi, cs, sense, asset,
    w, water, phase, ph, wip, e, m
""")
"""What may stand beside a short name of a phase ("t1_vibe_fs_tra_AP") without meaning anything for it."""

HEPATOBILIARY_AGENTS = _words("""
    gadoxet*, primovist, eovist, gd eob*, gdeob*, eob, eob dtpa, boxiusi, プリモビスト, 普美显, gadoxetic*
""")

LATE_HEPATOBILIARY_AGENTS = _words("""
    gadobenat*, multi hance, gd bopta, bopta, 莫迪司
""")
"""Gadobenate is read one to two hours after injection; at 10 minutes it is still an extracellular agent."""

EXTRACELLULAR_AGENTS = _words("""
    gadobutrol, gadovist, gadavist, gadoter*, dotarem, clariscan, gadoterid*, pro hance, omniscan,
    gadodiamid*, magnevist, gadopentet*, opti mark, gadoversetamid*, gadopiclenol, elucirem, vueway,
    gd dtpa, gddtpa, artirem, magnograf, dotagraf, cyclolux, gadovis*
""")
# fmt: on

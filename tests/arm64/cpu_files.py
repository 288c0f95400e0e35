"""Files under /proc and /sys that describe an Arm processor to programs under qemu-user."""

from __future__ import annotations

from pathlib import Path

NUM_CPUS = 2
MIDR = "0x00000000410fd083"  # main ID register of a Cortex-A72
CACHES = (("1", "32K"), ("1", "32K"), ("2", "1024K"))  # level and size: data, instructions, shared

PROC_CPUINFO = """\
processor\t: {cpu}
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd08
CPU revision\t: 3

"""


def write_cpu_files(root: Path) -> None:
    """Describe a Cortex-A72 of two cores inside an aarch64 root.

    qemu-user opens a path below ``-L root`` where there is such a file and the host's otherwise.
    ONNX Runtime's cpuinfo library reads these files when it is imported and crashes on what an
    x86-64 host says in them. Which instructions run is not decided here: programs ask the kernel
    (hwcaps), and so qemu's ``-cpu``.
    """
    for name, text in _cpu_files().items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "ascii")


def _cpu_files() -> dict[str, str]:
    """Path below the root to contents."""
    base, everyone = "sys/devices/system/cpu", f"0-{NUM_CPUS - 1}\n"
    files = {"proc/cpuinfo": "".join(PROC_CPUINFO.format(cpu=cpu) for cpu in range(NUM_CPUS))}
    files[f"{base}/kernel_max"] = f"{NUM_CPUS - 1}\n"
    for name in ("possible", "present", "online"):
        files[f"{base}/{name}"] = everyone
    for cpu in range(NUM_CPUS):
        own = f"{base}/cpu{cpu}"
        files[f"{own}/cpufreq/cpuinfo_max_freq"] = "2400000\n"  # kHz
        files[f"{own}/cpufreq/cpuinfo_min_freq"] = "600000\n"
        files[f"{own}/topology/physical_package_id"] = "0\n"
        files[f"{own}/topology/core_id"] = f"{cpu}\n"
        for name in ("cluster_cpus_list", "package_cpus_list", "core_siblings_list"):
            files[f"{own}/topology/{name}"] = everyone
        files[f"{own}/regs/identification/midr_el1"] = f"{MIDR}\n"
        for index, (level, size) in enumerate(CACHES):
            cache = f"{own}/cache/index{index}"
            files[f"{cache}/level"] = f"{level}\n"
            files[f"{cache}/size"] = f"{size}\n"
            files[f"{cache}/shared_cpu_list"] = everyone if level == "2" else f"{cpu}\n"
    return files

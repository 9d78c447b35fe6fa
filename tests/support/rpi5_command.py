"""Stand-ins for a Raspberry Pi 5's firmware: `vcgencmd` as a script, and the mailbox as a strict partner of its protocol."""

import errno
import struct

PRINTED = """\
 3V7_WL_SW_A current(0)=0.00390372A
   3V3_SYS_A current(1)=0.06831510A
   1V8_SYS_A current(2)=0.18738050A
  DDR_VDD2_A current(3)=0.01463895A
  DDR_VDDQ_A current(4)=0.00000000A
   1V1_SYS_A current(5)=0.20201750A
    0V8_SW_A current(6)=0.34157550A
  VDD_CORE_A current(7)=0.74030000A
   3V3_DAC_A current(17)=0.00000000A
   3V3_ADC_A current(18)=0.00000000A
   0V8_AON_A current(16)=0.00286200A
      HDMI_A current(22)=0.01391700A
 3V7_WL_SW_V volt(8)=3.64816800V
   3V3_SYS_V volt(9)=3.31393000V
   1V8_SYS_V volt(10)=1.79414600V
  DDR_VDD2_V volt(11)=1.10439400V
  DDR_VDDQ_V volt(12)=0.61538400V
   1V1_SYS_V volt(13)=1.10512600V
    0V8_SW_V volt(14)=0.80219140V
  VDD_CORE_V volt(15)=0.72012960V
   3V3_DAC_V volt(20)=3.31054900V
   3V3_ADC_V volt(21)=3.31054900V
   0V8_AON_V volt(19)=0.79780110V
      HDMI_V volt(23)=5.14924000V
     EXT5V_V volt(24)=5.14924000V
      BATT_V volt(25)=0.00000000V
"""

SUM_W = sum(
    volts * amperes
    for volts, amperes in (
        (3.64816800, 0.00390372),
        (3.31393000, 0.06831510),
        (1.79414600, 0.18738050),
        (1.10439400, 0.01463895),
        (1.10512600, 0.20201750),
        (0.80219140, 0.34157550),
        (0.72012960, 0.74030000),
        (0.79780110, 0.00286200),
        (5.14924000, 0.01391700),
    )
)


def lay_command(folder, text=PRINTED):
    """Write the script and what it prints; return (script, printed file)."""
    printed = folder / "printed.txt"
    printed.write_text(text)
    script = folder / "vcgencmd"
    script.write_text(f'#!/bin/sh\nexec cat "{printed}"\n')
    script.chmod(0o755)
    return script, printed


class FakeMailbox:
    """Answers property messages as the kernel's `vcio` and the firmware do, and refuses any other with EINVAL.

    Attributes:
        text: What the firmware says.
        status: Its status word.
        code: Code that it puts into an answered message.
        asked: How often it was asked.
    """

    def __init__(self, folder, text=PRINTED):
        self.device = folder / "vcio"
        self.device.touch()
        self.text, self.status, self.code, self.asked = text, 0, 0x80000000, 0

    def options(self):
        """Return the options of the meter that lead here."""
        return {"mailbox": [str(self.device)], "ioctl": self.ioctl}

    def ioctl(self, handle, request, message):
        assert handle > 2
        # _IOWR(100, 0, char *) of a 64-bit and of a 32-bit system.
        if request not in (0xC0086400, 0xC0046400) or len(message) % 4:
            raise OSError(errno.EINVAL, "Invalid argument")
        total, code, tag, room, length, status = struct.unpack_from("=6I", message)
        (end,) = struct.unpack_from("=I", message, len(message) - 4)
        value = bytes(message[24:-4])
        if (total, code, tag, room, length, status, end) != (len(message), 0, 0x00030080, len(value), 0, 0, 0):
            raise OSError(errno.EINVAL, "Invalid argument")
        assert value.rstrip(b"\0") == b"pmic_read_adc"
        self.asked += 1
        answer = self.text.encode()[:room]
        message[24 : 24 + room] = answer.ljust(room, b"\0")
        struct.pack_into("=I", message, 4, self.code)
        struct.pack_into("=2I", message, 16, 0x80000000 | len(answer), self.status)
        return 0

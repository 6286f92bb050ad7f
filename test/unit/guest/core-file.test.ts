import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { coreHeader, readRegisters, START_OF_MEMORY } from '../../../lib/guest/core-file.ts';
import { memorySections } from '../../../lib/guest/memory-past-qemu.ts';

const REAL_MODE = `\r
CPU#0\r
EAX=00000000 EBX=00000000 ECX=00000000 EDX=00060fb1\r
ESI=00000000 EDI=00000000 EBP=00000000 ESP=00000000\r
EIP=0000fff0 EFL=00000002 [-------] CPL=0 II=0 A20=1 SMM=0 HLT=0\r
ES =0000 00000000 0000ffff 00009300\r
CS =f000 ffff0000 0000ffff 00009b00\r
`;
const LONG_MODE = `
CPU#1
RAX=ffffffff8100abcd RBX=0000000000000001 RCX=0000000000000002 RDX=0000000000000003
RSI=0000000000000004 RDI=0000000000000005 RBP=0000000000000006 RSP=ffffc90000093e98
R8 =0000000000000008 R9 =0000000000000009 R10=000000000000000a R11=000000000000000b
R12=000000000000000c R13=000000000000000d R14=000000000000000e R15=000000000000000f
RIP=ffffffff81e3b5ae RFL=00000246 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=1
CS =0010 0000000000000000 ffffffff 00af9b00 DPL=0 CS64 [-RA]
GS =0000 ffff88803ec00000 00000000 00000000
GDT=     fffffe0000001000 0000007f
CR0=80050033 CR2=00007f0000000000 CR3=000000000200a000 CR4=000006f0
`;

describe('a core file of a guest', () => {
  test('has the registers of each vCPU where Linux has them', () => {
    const [first, second] = readRegisters(`${REAL_MODE}${LONG_MODE}`);
    assert.equal(first?.get('RIP'), 0xfff0n);
    assert.equal(first?.get('CS base'), 0xffff0000n);
    assert.equal(second?.get('R8'), 8n);
    assert.equal(second?.get('GS base'), 0xffff88803ec00000n);
    const header = coreHeader([{ physical: 0x100000, bytes: 4096, at: START_OF_MEMORY }], LONG_MODE);
    assert.equal(header.length, START_OF_MEMORY);
    const note = Number(header.readBigUInt64LE(64 + 8));
    const register = (index: number) => header.readBigUInt64LE(note + 20 + 112 + index * 8);
    // R15, RAX, RIP, CS, RFLAGS, RSP, and the base of GS: the order of user_regs_struct.
    assert.deepEqual([0, 10, 16, 17, 18, 19, 22].map(register), [
      0xfn,
      0xffffffff8100abcdn,
      0xffffffff81e3b5aen,
      0x10n,
      0x246n,
      0xffffc90000093e98n,
      0xffff88803ec00000n,
    ]);
    assert.equal(header.readBigUInt64LE(64 + 56 + 24), 0x100000n, 'the physical address');
  });

  test('is of the memory that no device stands behind', () => {
    const text = `FlatView #0\r
 AS "I/O", root: io\r
 Root memory region: io\r
  0000000000000000-0000000000000007 (prio 0, ram): none\r
\r
FlatView #1\r
 AS "memory", root: system\r
 AS "cpu-memory-0", root: system\r
 Root memory region: system\r
  0000000000000000-00000000000bffff (prio 0, ram): m KVM\r
  00000000000c0000-00000000000dffff (prio 1, rom): pc.rom\r
  0000000000100000-0000000003ffffff (prio 0, ram): m @0000000000100000 KVM\r
  00000000e0000000-00000000e0000fff (prio 1, ramd): 0000:01:00.0 BAR 0 mmaps[0]\r
  00000000fec00000-00000000fec00fff (prio 0, i/o): ioapic\r
`;
    assert.deepEqual(memorySections(text), [
      { physical: 0, bytes: 0xc0000 },
      { physical: 0xc0000, bytes: 0x20000 },
      { physical: 0x100000, bytes: 0x3f00000 },
    ]);
  });
});

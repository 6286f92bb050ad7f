/** A piece of memory, and where it lies in the file. */
export interface Segment {
  readonly physical: number;
  readonly bytes: number;
  /** Offset in the file. */
  readonly at: number;
}

// System V ABI, ELF-64 object file format.
const HEADER = 64;
const PROGRAM_HEADER = 56;
const ET_CORE = 4;
const EM_X86_64 = 62;
const PT_LOAD = 1;
const PT_NOTE = 4;
const NT_PRSTATUS = 1;

/** How many pieces the memory may be in. */
export const MOST_SEGMENTS = 4096;
/** Of how many vCPUs the registers are kept at most. */
const MOST_VCPUS = 800;
/** Where the memory begins in the file: behind the headers and the registers. */
export const START_OF_MEMORY = 512 * 1024;
const NOTES = HEADER + (MOST_SEGMENTS + 1) * PROGRAM_HEADER;

/** Linux's `struct elf_prstatus` of x86-64: its size, and where in it the process's number and the registers are. */
const STATUS = { size: 336, pid: 32, registers: 112 } as const;

/** Linux's `struct user_regs_struct` of x86-64, by what QEMU's `info registers` calls its members. */
const REGISTERS = [
  ...['R15', 'R14', 'R13', 'R12', 'RBP', 'RBX', 'R11', 'R10', 'R9', 'R8', 'RAX', 'RCX', 'RDX', 'RSI', 'RDI'],
  ...['', 'RIP', 'CS', 'RFL', 'RSP', 'SS', 'FS base', 'GS base', 'DS', 'ES', 'FS', 'GS'],
];

/**
 * What stands before the memory in a core file of x86-64, as QEMU's dump-guest-memory writes one for crash(8): physical
 * addresses, and the general registers of each vCPU, its thread being its number plus one.
 *
 * @param registers what `info registers -a` of QEMU's monitor prints
 * @returns START_OF_MEMORY bytes
 */
export function coreHeader(segments: readonly Segment[], registers: string): Buffer {
  const notes = Buffer.concat(readRegisters(registers).slice(0, MOST_VCPUS).map(statusNote));
  const header = Buffer.alloc(START_OF_MEMORY);
  header.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
  header.writeUInt16LE(ET_CORE, 16);
  header.writeUInt16LE(EM_X86_64, 18);
  header.writeUInt32LE(1, 20);
  header.writeBigUInt64LE(BigInt(HEADER), 32);
  header.writeUInt16LE(HEADER, 52);
  header.writeUInt16LE(PROGRAM_HEADER, 54);
  header.writeUInt16LE(segments.length + 1, 56);
  const all = [
    { type: PT_NOTE, at: NOTES, physical: 0, bytes: notes.length },
    ...segments.map((segment) => ({ ...segment, type: PT_LOAD })),
  ];
  for (const [index, { type, at, physical, bytes }] of all.entries()) {
    const start = HEADER + index * PROGRAM_HEADER;
    header.writeUInt32LE(type, start);
    header.writeBigUInt64LE(BigInt(at), start + 8);
    header.writeBigUInt64LE(BigInt(physical), start + 24);
    header.writeBigUInt64LE(BigInt(bytes), start + 32);
    header.writeBigUInt64LE(BigInt(bytes), start + 40);
  }
  header.set(notes, NOTES);
  return header;
}

/** The registers of each vCPU by name; of one that is not in 64-bit mode, `EAX` is `RAX`. */
export function readRegisters(text: string): ReadonlyMap<string, bigint>[] {
  return text
    .split(/^CPU#\d+\s*$/m)
    .slice(1)
    .map((vcpu) => {
      const found = new Map<string, bigint>();
      for (const [, name = '', value] of vcpu.matchAll(
        /\b([ER]?[A-Z][A-Z0-9]{1,2}|R\d+) *=([0-9a-f]{8,16})\b/g,
      )) {
        found.set(name.replace(/^E(?=[A-Z]{2}$)/, 'R'), BigInt(`0x${value}`));
      }
      for (const [, name = '', selector, base] of vcpu.matchAll(/^([C-GS]S) =([0-9a-f]{4}) ([0-9a-f]+) /gm)) {
        found.set(name, BigInt(`0x${selector}`));
        found.set(`${name} base`, BigInt(`0x${base}`));
      }
      return found;
    });
}

function statusNote(registers: ReadonlyMap<string, bigint>, index: number): Buffer {
  const name = Buffer.from('CORE\0\0\0\0', 'latin1');
  const status = Buffer.alloc(STATUS.size);
  status.writeUInt32LE(index + 1, STATUS.pid);
  for (const [position, register] of REGISTERS.entries()) {
    status.writeBigUInt64LE(registers.get(register) ?? 0n, STATUS.registers + position * 8);
  }
  const head = Buffer.alloc(12);
  head.writeUInt32LE(5, 0);
  head.writeUInt32LE(STATUS.size, 4);
  head.writeUInt32LE(NT_PRSTATUS, 8);
  return Buffer.concat([head, name, status]);
}

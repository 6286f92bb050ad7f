# The witness: a guest that counts its boots and its ticks into its disk and says on the serial port what it has been
# told is written. 16-bit real mode on SeaBIOS, so that it boots within a blink and sees any disk that the BIOS does
# (virtio-blk, virtio-scsi, IDE, AHCI).
#
# The disk, in sectors of 512 bytes:
#    0..7   this program; byte 508 of sector 0 holds the settings below
#    8      the record of this boot
#    16     the record of the latest tick; on further disks too, if they have a record there (see witness.ts)
# A record is four 32-bit little-endian numbers: "WTNS", boots, ticks, instance. Ticks go on counting across boots, so
# they fall only when an acknowledged write was lost; boots and instance (the time stamp counter at boot) say who wrote.
#
# The serial port (COM1) gets a line each: "B<boots> <ticks>" when the boot's record is written, "T<ticks>" when a
# tick's is, "E<status>" when the BIOS reports an error; the write is then repeated until it succeeds. Numbers are hex.
# Nothing is ever flushed, as the BIOS has no call for it: on virtio-blk QEMU then flushes after each write, on other
# disks an acknowledged write is durable only if the cache mode makes it so.
#
# Keys (virsh send-key NAME KEY_P):
#    p  pvpanic 1, a panic             r  reset           d  dirty memory from now on (7 MiB/s)
#    c  pvpanic 2, crash kernel runs   x  triple fault    w  arm the ib700 watchdog (4 s)
#    h  hang with interrupts off       q  power off       m  allow machine check exceptions
#    s  suspend to memory (ACPI S3); woken, it boots anew
#    i  an instruction that KVM cannot emulate: an internal error (on KVM, without a video card; else nothing)
.code16
.globl _start

.set SETTING_IGNORE_POWER_BUTTON, 1
.set SETTING_WATCHDOG, 2
.set SETTING_DIRTY, 4

.set SECTORS, 8                 # of this program
.set BOOT_SECTOR, 8
.set TICK_SECTOR, 16
.set MAGIC, 0x534e5457          # "WTNS"
.set BIOS_TICKS, 0x46c          # counts 18.2 times a second
.set BIOS_DISKS, 0x475          # how many hard disks the BIOS knows
.set COM1, 0x3f8
.set PM1_STATUS, 0x600          # where SeaBIOS puts the ACPI registers of both PIIX4 and ICH9
.set PM1_ENABLE, 0x602
.set PM1_CONTROL, 0x604
.set POWER_BUTTON, 0x100
.set SLEEP_S5, 0x2000
.set SLEEP_S3, 0x2400

_start:
  cli
  xorw %ax, %ax
  movw %ax, %ds
  movw %ax, %es
  movw %ax, %ss
  movw $0x7c00, %sp
  sti
  cld
  ljmp $0, $1f                  # some BIOSes start at 07c0:0000
1:
  movb %dl, drive
  movl $main, transfer          # the rest of the program, behind this sector
  movw $SECTORS - 1, wanted
  movl $1, sector
2:
  movb $0x42, %ah
  call transfer_once
  jc 2b
  movw $1, wanted
  jmp main

# One call to the BIOS: ah = 0x42 reads, 0x43 writes; carry is set when it failed, ah then says why.
transfer_once:
  pushw wanted                  # the BIOS puts there how many sectors it has done, which are none when it fails
  popw count
  xorb %al, %al
  movb drive, %dl
  movw $packet, %si
  int $0x13
  ret

packet:
  .byte 16, 0
count:
  .word 0
transfer:                       # offset and segment
  .long 0
sector:
  .long 0, 0
drive:
  .byte 0
wanted:
  .word 0

.org 508
settings:
  .byte 0, 0
  .word 0xaa55

main:
  # Count the boot. The first record on a disk may be no record yet.
  movl $record, transfer
  movl $TICK_SECTOR, sector
  movb $0x42, %ah
  call until_done
  cmpl $MAGIC, record
  jne 1f
  movl record + 8, %eax
  movl %eax, ticks
1:
  movl $BOOT_SECTOR, sector
  movb $0x42, %ah
  call until_done
  cmpl $MAGIC, record
  jne 1f
  movl record + 4, %eax
  movl %eax, boots
1:
  incl boots
  rdtsc
  movl %eax, instance
  call fill_record
  movb $0x43, %ah
  call until_done
  movl $TICK_SECTOR, sector

  movb $'B', %al
  call put
  movl boots, %eax
  call put_number
  movb $' ', %al
  call put
  movl ticks, %eax
  call put_number
  call put_newline

  # Further disks take part if they have a record already.
  movb drive, %bl
  movb %bl, boot_drive
1:
  incb %bl
  movb BIOS_DISKS, %al
  addb $0x80, %al
  cmpb %al, %bl
  jae 2f
  movb %bl, drive
  movl $0, record
  movb $0x42, %ah
  call transfer_once
  jc 1b
  cmpl $MAGIC, record
  jne 1b
  movzbw %bl, %di
  movb $1, takes_part - 0x80(%di)
  jmp 1b
2:
  movb boot_drive, %al
  movb %al, drive
  call fill_record

  movw $PM1_ENABLE, %dx
  movw $POWER_BUTTON, %ax
  outw %ax, %dx

loop:
  movl BIOS_TICKS, %ecx
1:
  hlt
  call power_button
  call keyboard
  call watchdog
  call dirty
  movl BIOS_TICKS, %eax
  subl %ecx, %eax
  cmpl $2, %eax
  jb 1b

  incl ticks
  call fill_record
  movb $0x43, %ah
  call until_done
  movw $0x81, %di
2:
  cmpb $0, takes_part - 0x80(%di)
  je 3f
  movw %di, %ax
  movb %al, drive
  movb $0x43, %ah
  call until_done
3:
  incw %di
  cmpw $0x88, %di
  jb 2b
  movb boot_drive, %al
  movb %al, drive

  movb $'T', %al
  call put
  movl ticks, %eax
  call put_number
  call put_newline
  jmp loop

fill_record:
  movl $MAGIC, record
  movl boots, %eax
  movl %eax, record + 4
  movl ticks, %eax
  movl %eax, record + 8
  movl instance, %eax
  movl %eax, record + 12
  ret

# As transfer_once, repeated until it succeeds. An error policy of "stop" lets QEMU do the repeating instead.
until_done:
  pushw %di
1:
  pushw %ax
  call transfer_once
  jnc 3f
  movb %ah, %bl
  movb $'E', %al
  call put
  movb %bl, %al
  call put_byte
  call put_newline
  movb $0, %ah                  # reset the disk
  movb drive, %dl
  int $0x13
  movl BIOS_TICKS, %ecx         # and pause for a tick or two, still hearing keys
2:
  hlt
  call power_button
  call keyboard
  movl BIOS_TICKS, %eax
  subl %ecx, %eax
  cmpl $2, %eax
  jb 2b
  popw %ax
  jmp 1b
3:
  popw %ax
  popw %di
  ret

power_button:
  movw $PM1_STATUS, %dx
  inw %dx, %ax
  testw $POWER_BUTTON, %ax
  jz 1f
  movw $POWER_BUTTON, %ax       # writing the bit clears it
  outw %ax, %dx
  testb $SETTING_IGNORE_POWER_BUTTON, settings
  jz power_off
1:
  ret

power_off:
  movw $PM1_CONTROL, %dx
  movw $SLEEP_S5, %ax
  outw %ax, %dx
1:
  hlt
  jmp 1b

watchdog:
  testb $SETTING_WATCHDOG, settings
  jz 1f
  movw $0x443, %dx              # ib700: start anew, 4 seconds
  movb $0x0d, %al
  outb %al, %dx
1:
  ret

# Touch a byte in each page of 64 KiB to 448 KiB.
dirty:
  testb $SETTING_DIRTY, settings
  jz 2f
  pushw %es
  movw $0x1000, %ax
1:
  movw %ax, %es
  incb %es:0
  addw $0x100, %ax
  cmpw $0x7000, %ax
  jb 1b
  popw %es
2:
  ret

keyboard:
  movb $1, %ah
  int $0x16
  jz 1f
  movb $0, %ah
  int $0x16
  cmpb $'p', %al
  je key_panic
  cmpb $'c', %al
  je key_crash_kernel
  cmpb $'h', %al
  je key_hang
  cmpb $'r', %al
  je key_reset
  cmpb $'x', %al
  je key_triple_fault
  cmpb $'i', %al
  je key_emulation
  cmpb $'d', %al
  je key_dirty
  cmpb $'w', %al
  je key_watchdog
  cmpb $'m', %al
  je key_machine_check
  cmpb $'s', %al
  je key_suspend
  cmpb $'q', %al
  je power_off
1:
  ret

key_suspend:
  movw $PM1_CONTROL, %dx
  movw $SLEEP_S3, %ax
  outw %ax, %dx
  ret
key_panic:
  movb $1, %al
  jmp pvpanic
key_crash_kernel:
  movb $2, %al
pvpanic:
  movw $0x505, %dx
  outb %al, %dx
  ret
key_hang:
  cli
1:
  hlt
  jmp 1b
key_reset:
  movb $0xfe, %al               # the keyboard controller pulls the reset line
  outb %al, $0x64
  ret
key_triple_fault:
  lidt no_interrupts
  int3
key_emulation:                  # floating point arithmetic on what is no memory
  pushw %es
  movw $0xa000, %ax
  movw %ax, %es
  fadds %es:0
  popw %es
  ret
key_dirty:
  orb $SETTING_DIRTY, settings
  ret
key_watchdog:
  orb $SETTING_WATCHDOG, settings
  ret
key_machine_check:
  movl %cr4, %eax
  orl $0x40, %eax
  movl %eax, %cr4
  ret

put_newline:
  movb $'\r', %al
  call put
  movb $'\n', %al
  jmp put
put_number:                     # eax, eight digits
  movw $4, %bp
1:
  roll $8, %eax
  call put_byte
  decw %bp
  jnz 1b
  ret
put_byte:                       # al, two digits
  pushl %eax
  shrb $4, %al
  call put_digit
  popl %eax
  pushl %eax
  andb $15, %al
  call put_digit
  popl %eax
  ret
put_digit:
  addb $'0', %al
  cmpb $'9', %al
  jbe put
  addb $'a' - '0' - 10, %al
put:                            # al, dropped if the port stays busy
  pushl %eax
  movw $COM1 + 5, %dx
  movw $0, %si
1:
  decw %si
  jz 2f
  inb %dx, %al
  testb $0x20, %al
  jz 1b
2:
  popl %eax
  movw $COM1, %dx
  outb %al, %dx
  ret

no_interrupts:
  .word 0
  .long 0
boots:
  .long 0
ticks:
  .long 0
instance:
  .long 0
boot_drive:
  .byte 0
takes_part:
  .fill 8, 1, 0

.org SECTORS * 512
.set record, 0x9000

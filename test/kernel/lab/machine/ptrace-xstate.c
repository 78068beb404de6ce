/*
 * A ptrace(2) for User-Mode Linux before 6.14 on processors with a large register state.
 *
 * Such a kernel sets the state of its processes (PTRACE_SETREGSET, NT_X86_XSTATE) from a buffer of 2696 bytes. The
 * host accepts only its own full size (arch/x86/kernel/fpu/regset.c, xstateregs_set), which is 11008 bytes on a
 * processor with AMX: the guest panics at its first process. Here the part that the guest does not know is taken
 * from the process itself. Loaded with LD_PRELOAD by uml.mjs; built without any header, so that tcc alone suffices.
 */
extern long syscall(long number, ...);
extern int *__errno_location(void);

struct iovec {
	void *base;
	unsigned long length;
};

#define SYS_PTRACE 101
#define PTRACE_PEEKTEXT 1
#define PTRACE_PEEKUSER 3
#define PTRACE_GETREGSET 0x4204
#define PTRACE_SETREGSET 0x4205
#define NT_X86_XSTATE 0x202

/* The kernel process is the only one that traces, on one thread. */
static unsigned char state[65536];

static long set_state(long pid, struct iovec *given)
{
	struct iovec whole = { state, sizeof(state) };
	unsigned long at;

	if (syscall(SYS_PTRACE, PTRACE_GETREGSET, pid, NT_X86_XSTATE, &whole) != 0 || whole.length <= given->length)
		return syscall(SYS_PTRACE, PTRACE_SETREGSET, pid, NT_X86_XSTATE, given);
	for (at = 0; at < given->length; at++)
		state[at] = ((unsigned char *)given->base)[at];
	return syscall(SYS_PTRACE, PTRACE_SETREGSET, pid, NT_X86_XSTATE, &whole);
}

long ptrace(long request, long pid, void *address, void *data)
{
	long word;
	long result;

	if (request == PTRACE_SETREGSET && (long)address == NT_X86_XSTATE)
		return set_state(pid, data);
	if (request < PTRACE_PEEKTEXT || request > PTRACE_PEEKUSER)
		return syscall(SYS_PTRACE, request, pid, address, data);
	/* The system call stores what was peeked; ptrace(3) returns it. */
	result = syscall(SYS_PTRACE, request, pid, address, &word);
	if (result < 0)
		return result;
	*__errno_location() = 0;
	return word;
}

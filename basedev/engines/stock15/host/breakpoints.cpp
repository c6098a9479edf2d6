#include "breakpoints.h"

#include "image.h"

#include <csignal>
#include <cstring>
#include <dlfcn.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

namespace {

const uint8_t INT3 = 0xcc, PUSH_RBP = 0x55;
const greg_t TRAP_FLAG = 0x100;  // of EFLAGS: stop after one instruction

struct Breakpoint {
    uint8_t original;
    bool once;
    std::function<Continuation(const Arguments &)> reached;
};

std::unordered_map<uint8_t *, Breakpoint> breakpoints;
uint8_t *stepping_over = nullptr;

void write_code(uint8_t *address, uint8_t byte) {
    static const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    static std::unordered_set<uintptr_t> writable;
    uintptr_t start = (uintptr_t)address & ~(page - 1);
    if (writable.insert(start).second && mprotect((void *)start, page, PROT_READ | PROT_WRITE | PROT_EXEC))
        fail("cannot set a breakpoint");
    *address = byte;
}

void on_trap(int, siginfo_t *, void *context) {
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    if (stepping_over) {
        write_code(stepping_over, INT3);
        stepping_over = nullptr;
        registers[REG_EFL] &= ~TRAP_FLAG;
        return;
    }
    auto *address = (uint8_t *)registers[REG_RIP] - 1;
    auto found = breakpoints.find(address);
    if (found == breakpoints.end())
        fail("a trap that is no breakpoint");
    Arguments arguments;
    const int order[] = {REG_RDI, REG_RSI, REG_RDX, REG_RCX, REG_R8, REG_R9};
    for (int i = 0; i < 6; i++)
        arguments.values[i] = (void *)registers[order[i]];
    if (found->second.reached(arguments) == RETURN_AT_ONCE) {
        auto *top = (greg_t *)registers[REG_RSP];
        registers[REG_RIP] = *top;
        registers[REG_RSP] = (greg_t)(top + 1);
        return;
    }
    if (found->second.original == PUSH_RBP) {  // most functions begin so: as good as executed, without another trap
        auto *top = (greg_t *)registers[REG_RSP] - 1;
        *top = registers[REG_RBP];
        registers[REG_RSP] = (greg_t)top;
        if (found->second.once)
            write_code(address, PUSH_RBP);
        return;
    }
    write_code(address, found->second.original);
    registers[REG_RIP] = (greg_t)address;
    if (!found->second.once) {
        stepping_over = address;
        registers[REG_EFL] |= TRAP_FLAG;
    }
}

}  // namespace

void set_breakpoint(void *address, bool once, std::function<Continuation(const Arguments &)> reached) {
    if (breakpoints.empty()) {
        struct sigaction action;
        memset(&action, 0, sizeof action);
        action.sa_sigaction = on_trap;
        action.sa_flags = SA_SIGINFO | SA_NODEFER;
        sigaction(SIGTRAP, &action, nullptr);
    }
    auto *code = (uint8_t *)address;
    auto known = breakpoints.find(code);
    uint8_t original = known == breakpoints.end() ? *code : known->second.original;
    breakpoints[code] = {original, once, std::move(reached)};
    write_code(code, INT3);
}

void *runtime_function(const char *name) {
    void *address = dlsym(RTLD_DEFAULT, name);
    if (!address)
        fail(std::string("this libjulia has no ") + name);
    return address;
}

void set_breakpoint_again(void *address) { write_code((uint8_t *)address, INT3); }

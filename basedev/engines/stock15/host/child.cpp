#include "child.h"

#include "garbage.h"
#include "image.h"

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <new>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

// The JIT writes code through a descriptor of /proc/self/mem that it opened once (src/cgmemmgr.cpp,
// init_self_mem). After a fork that is still the parent's memory: the child would write there.
void own_memory_after_fork() {
    int fresh = open("/proc/self/mem", O_RDWR | O_SYNC | O_CLOEXEC);
    for (int file = 3; file < 256; file++) {
        char name[64], target[64];
        snprintf(name, sizeof name, "/proc/self/fd/%d", file);
        ssize_t length = readlink(name, target, sizeof target);
        if (file != fresh && length > 4 && !memcmp(target + length - 4, "/mem", 4))
            dup3(fresh, file, O_CLOEXEC);
    }
    close(fresh);
}

namespace {

const int BACK = 75;  // the exit status of one that goes back to its parent

struct Child {
    pid_t process;
    int answer;  // where it writes what its work gave
};

pid_t fork_for(const std::string &doing) {
    pid_t parent = getpid(), child = fork();
    if (child < 0)
        fail("cannot start a process for " + doing);
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
            _exit(1);
        own_memory_after_fork();
    }
    return child;
}

int status_of(pid_t child) {
    int status;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    return status;
}

Child start(const std::string &doing, const std::function<std::string()> &work) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC))
        fail("cannot make a pipe");
    pid_t child = fork_for(doing);
    if (child == 0) {
        close(ends[0]);
        collect_as_usual();
        std::string result = work();
        for (size_t sent = 0; sent < result.size();) {
            ssize_t wrote = write(ends[1], result.data() + sent, result.size() - sent);
            if (wrote > 0)
                sent += (size_t)wrote;
            else if (errno != EINTR)
                _exit(1);
        }
        _exit(0);
    }
    close(ends[1]);
    return {child, ends[0]};
}

std::string finish(const std::string &doing, const Child &child) {
    std::string result;
    char buffer[1 << 16];
    for (ssize_t got; (got = read(child.answer, buffer, sizeof buffer)) != 0;) {
        if (got > 0)
            result.append(buffer, (size_t)got);
        else if (errno != EINTR)
            break;
    }
    close(child.answer);
    if (int status = status_of(child.process))
        fail(doing + " ended its process (status " + std::to_string(status) + ")");
    return result;
}

}  // namespace

std::string in_child(const std::string &doing, const std::function<std::string()> &work) {
    return finish(doing, start(doing, work));
}

std::string in_child(const std::string &doing, const std::function<std::string()> &work,
                     const std::function<void()> &meanwhile) {
    Child child = start(doing, work);
    meanwhile();
    return finish(doing, child);
}

FromBothEnds::FromBothEnds(size_t count) : count(count) {
    void *shared = mmap(nullptr, sizeof *taken, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED)
        fail("there is no memory for a child");
    taken = new (shared) std::atomic<size_t>(0);
}

FromBothEnds::~FromBothEnds() { munmap(taken, sizeof *taken); }

// As no more are taken in all than there are, the two ends do not pass each other.
void FromBothEnds::each(bool from_last, const std::function<void(size_t)> &work) const {
    for (size_t own = 0; taken->fetch_add(1) < count; own++)
        work(from_last ? count - 1 - own : own);
}

bool go_on_in_child(const std::string &doing) {
    pid_t child = fork_for(doing);
    if (child == 0)
        return true;
    int status = status_of(child);
    if (WIFEXITED(status) && WEXITSTATUS(status) == BACK)
        return false;
    if (WIFEXITED(status))
        _exit(WEXITSTATUS(status));
    fail(doing + " ended its process (status " + std::to_string(status) + ")");
}

void back_to_parent() { _exit(BACK); }

std::vector<std::string> in_children(const std::string &doing, const std::vector<std::function<std::string()>> &works) {
    std::vector<Child> children;
    for (auto &work : works)
        children.push_back(start(doing, work));
    std::vector<std::string> results;
    for (auto &child : children)
        results.push_back(finish(doing, child));
    return results;
}

#include "serve.h"

#include "child.h"
#include "image.h"
#include "json.h"

#include <uv.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <clocale>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sstream>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

extern "C" uv_loop_t *jl_global_event_loop(void);

namespace {

const int TICK = 1000;      // milliseconds between looks at what may end the server
const int ASKED_ONLY = 3;   // exit status of a child that did no work
const int CLIENT_FILES = 2; // log and directory, sent with the first byte
const char WORK = 'w', STATE = 's', READY = 'r';  // first bytes of a client; the answer to WORK
const size_t STACK = 1 << 20;

long seconds_now() {
    timespec time;
    clock_gettime(CLOCK_BOOTTIME, &time);
    return time.tv_sec;
}

long resident_bytes() {
    long pages = 0;
    FILE *file = fopen("/proc/self/statm", "re");
    if (!file || fscanf(file, "%*s %ld", &pages) != 1)
        pages = 0;
    if (file)
        fclose(file);
    return pages * sysconf(_SC_PAGESIZE);
}

bool same_file(const struct stat &one, const struct stat &other) {
    return one.st_dev == other.st_dev && one.st_ino == other.st_ino;
}

// Whether a path still leads to what it led to.
class Place {
public:
    explicit Place(const std::string &path) : path(path) {
        if (lstat(path.c_str(), &was))
            fail("cannot read " + path + ": " + strerror(errno));
    }
    bool as_it_was() const {
        struct stat now;
        return !lstat(path.c_str(), &now) && same_file(was, now);
    }

private:
    std::string path;
    struct stat was;
};

// The runtime's event loop waits at descriptors that a fork leaves in common: those of the child are to be its own.
// (libjulia's libuv lacks uv_loop_fork.)
void own_event_loop_after_fork() {
    uv_loop_t *loop = jl_global_event_loop();
    int signals[2];
    int fresh = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), poller = epoll_create1(EPOLL_CLOEXEC);
    if (fresh < 0 || poller < 0 || pipe2(signals, O_CLOEXEC | O_NONBLOCK))
        fail("cannot make an event loop");
    auto put = [](int file, int place) {
        if (place >= 0 && dup3(file, place, O_CLOEXEC) < 0)
            fail("cannot make an event loop");
        close(file);
    };
    put(poller, loop->backend_fd);
    put(fresh, loop->async_wfd < 0 ? loop->async_io_watcher.fd : -1);
    put(signals[0], loop->signal_pipefd[0]);
    put(signals[1], loop->signal_pipefd[1]);
    for (unsigned file = 0; file < loop->nwatchers; file++) {
        uv__io_t *watcher = loop->watchers[file];
        if (!watcher || !watcher->events)
            continue;
        epoll_event event = {};
        event.events = watcher->events;
        event.data.fd = (int)file;
        epoll_ctl(loop->backend_fd, EPOLL_CTL_ADD, (int)file, &event);
    }
}

// The runtime holds copies of its standard streams.
void write_to_log_of_client(int log) {
    struct stat own, other;
    if (fstat(LOG_FILE, &own))
        fail("the server has no log");
    for (int file = 1; file < 256; file++)
        if (file != log && !fstat(file, &other) && same_file(own, other))
            dup3(log, file, file > LOG_FILE ? O_CLOEXEC : 0);
    close(log);
}

void *end_with_client(void *connection) {
    pollfd gone = {(int)(intptr_t)connection, POLLRDHUP, 0};
    while (poll(&gone, 1, -1) < 0 && errno == EINTR) {
    }
    kill(0, SIGKILL);  // and what it has started
    return nullptr;
}

// A thread, since the work may take minutes without a look at the connection. It uses nothing of the runtime.
void watch_client(int connection) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK);
    pthread_t thread;
    if (pthread_create(&thread, &attributes, end_with_client, (void *)(intptr_t)connection))
        fail("cannot start a thread");
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

// The first byte of a client and the descriptors that came with it.
char greeting(int connection, int (&files)[CLIENT_FILES]) {
    char byte = 0;
    iovec place = {&byte, 1};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof files)];
    msghdr message = {};
    message.msg_iov = &place;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    ssize_t got;
    while ((got = recvmsg(connection, &message, MSG_CMSG_CLOEXEC)) < 0 && errno == EINTR) {
    }
    std::fill(files, files + CLIENT_FILES, -1);
    cmsghdr *head = got == 1 ? CMSG_FIRSTHDR(&message) : nullptr;
    if (head && head->cmsg_level == SOL_SOCKET && head->cmsg_type == SCM_RIGHTS &&
        head->cmsg_len == CMSG_LEN(sizeof files))
        memcpy(files, CMSG_DATA(head), sizeof files);
    return byte;
}

class Server {
public:
    Server(const Serving &serving, int listener)
        : serving(serving), image(serving.image), socket(serving.socket), listener(listener) {}

    // In a child only: the connection.
    int run() {
        // The runtime waits for these with a thread that ends the process in an orderly way, which takes seconds.
        sigset_t ending;
        sigemptyset(&ending);
        for (int number : {SIGINT, SIGTERM, SIGHUP, SIGQUIT}) {
            signal(number, SIG_DFL);
            sigaddset(&ending, number);
        }
        pthread_sigmask(SIG_UNBLOCK, &ending, nullptr);
        struct sigaction at_end_of_child = {};  // ends the waiting
        at_end_of_child.sa_handler = [](int) {};
        sigaction(SIGCHLD, &at_end_of_child, nullptr);
        for (;;) {
            pollfd ready = {listener, POLLIN, 0};
            int waiting = poll(&ready, 1, TICK);
            reap();
            end_if_due();
            if (waiting <= 0)
                continue;
            int connection = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
            if (connection < 0)
                continue;
            fflush(nullptr);
            pid_t child = may_connect(connection) ? fork() : -1;
            if (child == 0)
                return in_child(connection);
            if (child > 0)
                children.push_back(child);
            close(connection);
        }
    }

private:
    const Serving &serving;
    Place image, socket;
    const int listener;
    std::vector<pid_t> children;
    long builds = 0, last = seconds_now();
    const long started = seconds_now();
    const pid_t self = getpid();

    static bool may_connect(int connection) {
        ucred peer;
        socklen_t length = sizeof peer;
        return !getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &peer, &length) && peer.uid == geteuid();
    }

    void reap() {
        int status;
        for (size_t i = 0; i < children.size();) {
            if (waitpid(children[i], &status, WNOHANG) != children[i]) {
                i++;
                continue;
            }
            children.erase(children.begin() + (long)i);
            if (WIFEXITED(status) && WEXITSTATUS(status) == ASKED_ONLY)
                continue;
            builds++;
            last = seconds_now();
        }
    }

    void end_if_due() const {
        if (!image.as_it_was() || !socket.as_it_was())
            _exit(0);
        bool idle = children.empty() && seconds_now() - last >= serving.idle;
        if (idle || (builds && resident_bytes() > serving.memory)) {
            unlink(serving.socket.c_str());  // while it has the lock, so that it is its own
            _exit(0);
        }
    }

    int in_child(int connection) {
        setsid();
        signal(SIGCHLD, SIG_DFL);
        close(listener);
        close(LOCK_FILE);
        int files[CLIENT_FILES];
        char wish = greeting(connection, files);
        if (wish == STATE) {
            Json json;
            json.open('{').key("pid").number(self).key("builds").number(builds);
            json.key("building").number((long long)children.size());
            json.key("idle").number(children.empty() ? seconds_now() - last : 0);
            json.key("seconds").number(seconds_now() - started);
            json.key("idle_limit").number(serving.idle).key("memory_limit").number(serving.memory).close('}');
            json.text += '\n';
            send(connection, json.text.data(), json.text.size(), MSG_NOSIGNAL);
            _exit(ASKED_ONLY);
        }
        if (wish != WORK || files[0] < 0)
            _exit(ASKED_ONLY);
        own_memory_after_fork();
        own_event_loop_after_fork();
        write_to_log_of_client(files[0]);
        if (fchdir(files[1]))
            fail(std::string("cannot enter the client's directory: ") + strerror(errno));
        close(files[1]);
        watch_client(connection);
        if (send(connection, &READY, 1, MSG_NOSIGNAL) != 1)
            _exit(1);
        return connection;
    }
};

}  // namespace

int detach() {
    syscall(SYS_close_range, LOCK_FILE + 1, ~0U, 0);
    int done[2];
    pid_t child = pipe2(done, O_CLOEXEC) ? -1 : fork();
    if (child < 0)
        fail("cannot start a process for the server");
    if (child > 0) {
        close(done[1]);
        char nothing;
        while (read(done[0], &nothing, 1) < 0 && errno == EINTR) {
        }
        _exit(0);
    }
    close(done[0]);
    setsid();
    for (int number = 1; number < NSIG; number++)
        signal(number, SIG_DFL);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, nullptr);
    umask(077);
    if (chdir("/"))
        fail("cannot enter /");
    int listener = fcntl(LISTENER_FILE, F_DUPFD_CLOEXEC, LOCK_FILE);
    // once more, so that clients are told of this process, not of the one that made the socket
    if (listener < 0 || listen(listener, SOMAXCONN))
        fail(std::string("the server's socket can't be used: ") + strerror(errno));
    int nothing = open("/dev/null", O_RDONLY | O_CLOEXEC);
    dup2(nothing, LISTENER_FILE);
    close(nothing);
    fcntl(LOCK_FILE, F_SETFD, FD_CLOEXEC);
    close(done[1]);
    return listener;
}

int serve(const Serving &serving, int listener) {
    static Server server(serving, listener);
    return server.run();
}

void live_like_client(int niceness, unsigned mask, const std::string &limits, const std::string &environment) {
    umask(mask);
    if (setpriority(PRIO_PROCESS, 0, niceness))
        fail("the server has a lower priority than its client");
    std::istringstream words(limits);
    int resource;
    long long soft, hard;
    char colon;
    while (words >> resource >> colon >> soft >> colon >> hard) {
        rlimit limit = {soft < 0 ? RLIM_INFINITY : (rlim_t)soft, hard < 0 ? RLIM_INFINITY : (rlim_t)hard};
        if (setrlimit((__rlimit_resource)resource, &limit))
            fail("the server has lower limits than its client");
    }
    clearenv();
    for (size_t at = 0, end; (end = environment.find('\0', at)) != std::string::npos; at = end + 1) {
        std::string entry = environment.substr(at, end - at);
        size_t equals = entry.find('=', 1);
        if (equals != std::string::npos)
            setenv(entry.substr(0, equals).c_str(), entry.c_str() + equals + 1, 1);
    }
    setlocale(LC_ALL, "");  // as libsupport_init of Julia 1.5.3's src/support/libsupportinit.c
    setlocale(LC_NUMERIC, "C");
    tzset();
}

// The host: a process that embeds Julia on a base image, takes requests on standard input and answers on
// standard output. It does what needs the runtime's insides; basedev decides what is to be done.
//
//   host IMAGE [PARENT [LIBRARIES [PARSED]]]
//   host --serve IMAGE LIBRARIES DEPENDENCIES SOCKET IDLE MEMORY
//
// PARENT is the id of the process that it is to die with, LIBRARIES the directory of the standard libraries,
// PARSED the statements of its sources as `parsed` wrote them, DEPENDENCIES the image's record of them (as `dependencies`
// writes it). With --serve, it does the same for each client
// of a socket, on its connection (serve.h).
//
// A request is a line of words, some of which are the lengths of byte strings that follow it at once. An answer
// is a line with its length in bytes, and that many bytes of JSON. Closing standard input ends the host.
//
//   client NICENESS UMASK LENGTH LENGTH, limits and environment
//                                      (of a server only, no answer) takes over the client's surroundings
//   facts                              versions, the files in the image, sizes of its tables
//   parse COUNT, then COUNT times a line LENGTH CHECK and a text
//                                      the statements in source texts (syntax.h); CHECK is 0 or 1
//   users MODULE NAME                  (lengths) who uses a name (bindings.h)
//   native                             argument types of everything with native code, one a line
//   trial COUNT, then COUNT steps      what the steps do, found out in a child that is thrown away
//   rehearse COUNT, then COUNT steps   the same, and why no native code of the image can be kept, if it can't
//   census LENGTH COUNT, a path, then COUNT evaluate steps
//                                      writes to the path what each of them runs (census.h)
//   parsed LENGTH COUNT, the same      writes to the path what the parser makes of each of them (trees.h)
//   computed LENGTH LENGTH COUNT, two paths, then COUNT steps
//                                      {"computed": the numbers of the census's steps that run what the steps change,
//                                      "never_generated": file and line of methods whose generator was never called};
//                                      the paths are those of the census and of the dependencies; either may be empty.
//                                      After that may come `gave COUNT` with so many evaluate steps, what each gives
//                                      now, as two processes found out, each its share; then `drop`, and all is as
//                                      before, or `keep`, as if by `apply`
//   compare COUNT MORE, then COUNT steps, then MORE evaluate steps
//                                      what each of the latter gives before the former, once more, and after them
//   results COUNT MORE, the same       what each of the latter gives after the former
//   impact LENGTH COUNT, a path, then COUNT steps
//                                      the same, and what they invalidate, through which calls (impact.h), found out in
//                                      a child that is thrown away; the path is that of the dependencies, or empty
//   apply COUNT, then COUNT steps      the same, for good
//   compile LENGTH LENGTH, two paths   after `apply`: writes the layer's objects and heap to a directory; with the
//                                      record of dependencies in a file, or if that has no name, all that Julia ended
//                                      is new. The heap is a recipe (recipe.h), or with a `whole_heap_reason` all of
//                                      it. Nothing is written where early cutoff must not be used:
//                                      {"needs_julias_rule": why}
//   dependencies LENGTH                writes to a path what results of inference depend on (dependencies.h), and tells
//                                      {"unstable": the argument types of those that come out otherwise when inferred
//                                      alone}
//   rebase LENGTH                      writes all of the image's own code and heap to a directory
//
// A step is one of
//   evaluate LINE MODULE FILE TEXT     (lengths of the last three)
//   delete MODULE NAME SIGNATURE       (lengths) ends the method with this signature (type_text)
//   move FILE FROM TO BY               (length, three numbers) methods and docstrings of these lines are BY further
//                                      down
//   undocument FROM TO MODULE FILE     (lengths of the last two) takes back the docstrings that stand in these lines
//   unbind MODULE NAME                 (lengths) the name is as if nothing had been bound to it
//   unexport MODULE NAME               (lengths)
//   unlog FILE FROM TO                 (length, two numbers) the ids of log messages of these lines may be used again
//   include MODULE FILE AFTER          (lengths) the module includes the file, behind another one
//   exclude MODULE FILE                (lengths) the module does not include the file any more
#include "host.h"
#include "image.h"
#include "requests.h"
#include "serve.h"

#include <julia_version.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <sstream>
#include <sys/prctl.h>
#include <unistd.h>

JULIA_DEFINE_FAST_TLS()

namespace {

// The headers that this was compiled with must be those of the libjulia that it runs with.
void check_abi() {
    if (strcmp(jl_ver_string(), JULIA_VERSION_STRING))
        fail(std::string("compiled for Julia ") + JULIA_VERSION_STRING + ", but this libjulia is " + jl_ver_string());
    if (jl_sizeof_jl_options() != (ssize_t)sizeof(jl_options_t))
        fail("this libjulia was built with other options than its headers tell");
}

void start_julia(const char *image) {
    // `--output-ji` puts the runtime into the mode in which it makes images: relocatable code, nothing
    // initialised. The file is never written, since the process ends without the runtime's exit hooks.
    const char *words[] = {"julia", "-O3", "-C", "generic", "-J", image, "--output-ji", "/dev/null",
                           "--startup-file=no", "-e", "nothing", nullptr};
    int count = sizeof words / sizeof *words - 1;
    char **arguments = (char **)words;
    jl_parse_opts(&count, &arguments);
    julia_init(JL_IMAGE_CWD);
}

std::string resolved(const char *given) {
    char *path = realpath(given, nullptr);
    if (!path)
        fail(std::string("cannot read ") + given);
    std::string text = path;
    free(path);
    return text;
}

[[noreturn]] void answer_requests(Host &host) {
    for (;;) {
        std::istringstream words(requests.line());
        std::string verb;
        size_t number = 0;
        words >> verb >> number;
        if (verb == "client") {
            unsigned mask = 0;
            size_t limits = 0, environment = 0;
            words >> mask >> limits >> environment;
            std::string allowed = requests.bytes(limits);
            live_like_client((int)number, mask, allowed, requests.bytes(environment));
        }
        else if (verb == "facts")
            host.facts();
        else if (verb == "parse")
            host.parse(take_texts(number));
        else if (verb == "users") {
            size_t length = 0;
            words >> length;
            std::string module = requests.bytes(number);
            host.users(module, requests.bytes(length));
        }
        else if (verb == "native")
            host.native();
        else if (verb == "trial" || verb == "rehearse" || verb == "apply") {
            auto steps = take_steps(number);
            if (verb == "apply")
                host.apply(steps);
            else
                host.trial(steps, verb == "rehearse");
        }
        else if (verb == "census" || verb == "parsed") {
            size_t count = 0;
            words >> count;
            std::string path = requests.bytes(number);
            if (verb == "census")
                host.census(path, take_steps(count));
            else
                host.keep_parsed(path, take_steps(count));
        }
        else if (verb == "computed") {
            size_t length = 0, count = 0;
            words >> length >> count;
            std::string path = requests.bytes(number), dependencies = requests.bytes(length);
            host.computed(path, dependencies, take_steps(count));
        }
        else if (verb == "impact") {
            size_t count = 0;
            words >> count;
            std::string dependencies = requests.bytes(number);
            host.impact(dependencies, take_steps(count));
        }
        else if (verb == "compare" || verb == "results") {
            size_t more = 0;
            words >> more;
            auto steps = take_steps(number), statements = take_steps(more);
            if (verb == "compare")
                host.compare(steps, statements);
            else
                host.results(steps, statements);
        }
        else if (verb == "compile") {
            size_t length = 0;
            words >> length;
            std::string directory = requests.bytes(number);
            host.compile(directory, requests.bytes(length));
        }
        else if (verb == "dependencies")
            host.record_dependencies(requests.bytes(number));
        else if (verb == "rebase")
            host.rebase(requests.bytes(number));
        else
            fail("an unknown request: " + verb);
    }
}

}  // namespace

int main(int argc, char **argv) {
    if (argc == 8 && !strcmp(argv[1], "--serve")) {
        const int listener = detach();
        std::string path = resolved(argv[2]);
        check_abi();
        start_julia(path.c_str());
        Host host(path.c_str(), argv[3]);
        const Serving serving = {path, argv[5], atol(argv[6]), atol(argv[7])};
        host.warm(argv[4]);
        requests.file = answers = serve(serving, listener);
        answer_requests(host);
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (argc < 2 || argc > 5) {
        fprintf(stderr, "usage: host IMAGE [PARENT [LIBRARIES [PARSED]]]\n"
                        "   or: host --serve IMAGE LIBRARIES DEPENDENCIES SOCKET IDLE MEMORY\n");
        return 2;
    }
    if (argc > 2 && getppid() != atoi(argv[2]))
        _exit(0);  // it died before it could be told to take this process along
    std::string path = resolved(argv[1]);
    // The runtime takes the standard streams as its own, and evaluated code may use them.
    requests.file = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3);
    answers = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
    int nothing = open("/dev/null", O_RDONLY | O_CLOEXEC);
    dup2(nothing, STDIN_FILENO);
    dup2(STDERR_FILENO, STDOUT_FILENO);
    check_abi();
    start_julia(path.c_str());
    Host host(path.c_str(), argc > 3 ? argv[3] : "", argc > 4 ? argv[4] : "");
    answer_requests(host);
}

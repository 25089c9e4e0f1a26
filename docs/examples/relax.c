/* The steady temperature of a square plate: one edge at 400 K, the others at 300 K (Jacobi).
 * cc -O2 -o relax relax.c -lm
 * relax CELLS ITERATIONS TOLERANCE_K [START]      START: the plate.bin of an earlier run
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static void save(const char *path, int iteration, int cells, const double *t)
{
    FILE *file = fopen("plate.new", "wb");
    if (file == NULL) { perror("plate.new"); exit(1); }
    fwrite(&iteration, sizeof iteration, 1, file);
    fwrite(t, sizeof *t, (size_t)cells * cells, file);
    if (fclose(file) != 0 || rename("plate.new", path) != 0) { perror(path); exit(1); }
}

int main(int argc, char **argv)
{
    const int n = argc > 3 ? atoi(argv[1]) : 0, iterations = argc > 3 ? atoi(argv[2]) : 0;
    const double tolerance = argc > 3 ? atof(argv[3]) : 0;
    if (n < 3 || n > 10000) {
        fprintf(stderr, "usage: relax CELLS ITERATIONS TOLERANCE_K [START], with 3 to 10000 CELLS\n");
        return 2;
    }
    double *t = malloc(sizeof *t * n * n), *next = malloc(sizeof *t * n * n);
    double change = INFINITY;
    int k = 0;

    if (t == NULL || next == NULL) { perror("the plate"); return 1; }
    for (int i = 0; i < n * n; i++) t[i] = next[i] = i < n ? 400.0 : 300.0;
    if (argc > 4) {
        FILE *file = fopen(argv[4], "rb");
        if (file == NULL || fread(&k, sizeof k, 1, file) != 1
            || fread(t, sizeof *t, (size_t)n * n, file) != (size_t)n * n) {
            fprintf(stderr, "%s is not the plate of an earlier run with %d cells\n", argv[4], n);
            return 2;
        }
        fclose(file);
        printf("going on from iteration %d\n", k);
    }
    while (k < iterations && change > tolerance) {
        change = 0;
        for (int y = 1; y < n - 1; y++)
            for (int x = 1; x < n - 1; x++) {
                const int i = y * n + x;
                next[i] = (t[i - 1] + t[i + 1] + t[i - n] + t[i + n]) / 4;
                change = fmax(change, fabs(next[i] - t[i]));
            }
        double *old = t; t = next; next = old;
        if (++k % 1000 == 0) {
            printf("iteration %d of %d, largest change %.3g K\n", k, iterations, change);
            fflush(stdout); /* else it stays in a buffer, and nobody sees it */
            save("plate.bin", k, n, t);
        }
    }
    if (change > tolerance) printf("NOT CONVERGED after %d iterations\n", k);
    else printf("converged after %d iterations\n", k);

    FILE *table = fopen("middle.csv", "w"), *summary = fopen("summary.json", "w");
    if (table == NULL || summary == NULL) { perror("results"); return 1; }
    fprintf(table, "y,temperature_k\n");
    for (int y = 0; y < n; y++) fprintf(table, "%.5f,%.6f\n", y / (n - 1.0), t[y * n + n / 2]);
    fprintf(summary, "{\"converged\": %s, \"iterations\": %d, \"largest_change_k\": %.6g,"
            " \"centre_temperature_k\": %.6f}\n", change > tolerance ? "false" : "true", k, change,
            t[n / 2 * n + n / 2]);
    return fclose(table) != 0 || fclose(summary) != 0;
}

/* What stands between the matrix products of a chunked margin head (`spkver.heads.chunked_native`).

   `products` (rows, batch) are those of weight rows and embeddings, `rows_per_class` rows a class, one class after
   another. A row's logit is its product times its `inverse_norm`, or plus its class's `bias`, where there are any; a
   class's logit is its highest row's. */

#include "kernels.h"
#ifdef _OPENMP
#include <omp.h>
#endif

/* Classes whose logits are made before their exponentials are summed; items that are worked on together. */
#define CLASSES 16

typedef struct {
    void *products;
    const float *inverse_norm, *bias;
    int64_t first, n_classes, rows_per_class, batch, k;
    /* Forward: of the whole batch, and of a thread: (batch, k), (batch, k), (batch,), (batch,). */
    const int64_t *label;
    float *target, *hardest, *highest;
    int64_t *hardest_class;
    double *sum;
    /* Backward: of the batch, of single logits in the order of classes, and of rows and classes. */
    const float *rest, *rest_gradient, *single_gradient;
    const int64_t *single_offset, *single_item;
    float *radial, *bias_gradient;
} Chunk;

/* Logits of `width` items of a class. */
INLINE void class_logits(const Chunk *chunk, int64_t class, int64_t item, int64_t width, float *logit, int bf16)
{
    for (int64_t r = 0; r < chunk->rows_per_class; r++) {
        int64_t row = class * chunk->rows_per_class + r;
        float scale = chunk->inverse_norm ? chunk->inverse_norm[row] : 1.0f;
        float shift = chunk->bias ? chunk->bias[class] : 0.0f;
        const void *products = shifted(chunk->products, row * chunk->batch + item, bf16);
        for (int64_t i = 0; i < width; i++) {
            float value = get(products, i, bf16) * scale + shift;
            logit[i] = r == 0 || value > logit[i] || value != value ? value : logit[i];
        }
    }
}

/* Keeps an item's highest logits in falling order; returns the one that falls out. */
INLINE float keep(float *hardest, int64_t *hardest_class, int64_t k, float value, int64_t class)
{
    float fallen = hardest[k - 1];
    int64_t place = k - 1;
    for (; place > 0 && hardest[place - 1] < value; place--) {
        hardest[place] = hardest[place - 1];
        hardest_class[place] = hardest_class[place - 1];
    }
    hardest[place] = value;
    hardest_class[place] = class;
    return fallen;
}

/* Up to CLASSES classes from `class` on, `width` items from `item` on. */
INLINE void tile_forward(const Chunk *chunk, int64_t class, int64_t n_classes, int64_t item, int64_t width, int bf16)
{
    float logit[CLASSES][BLOCK], highest[BLOCK], part[BLOCK] = {0};
    int64_t k = chunk->k;
    for (int64_t c = 0; c < n_classes; c++)
        class_logits(chunk, class + c, item, width, logit[c], bf16);
    for (int64_t i = 0; i < width; i++) {
        int64_t c = chunk->label[item + i] - chunk->first - class;
        if (c >= 0 && c < n_classes) {
            chunk->target[item + i] = logit[c][i];
            logit[c][i] = -__builtin_inff();
        }
    }
    if (k) {
        float lowest[BLOCK];
        for (int64_t i = 0; i < width; i++)
            lowest[i] = chunk->hardest[(item + i) * k + k - 1];
        for (int64_t c = 0; c < n_classes; c++) {
            int any = 0;
            for (int64_t i = 0; i < width; i++)
                any |= logit[c][i] > lowest[i];
            for (int64_t i = 0; any && i < width; i++)
                if (logit[c][i] > lowest[i]) {
                    float *hardest = chunk->hardest + (item + i) * k;
                    logit[c][i] = keep(hardest, chunk->hardest_class + (item + i) * k, k, logit[c][i],
                                       chunk->first + class + c);
                    lowest[i] = hardest[k - 1];
                }
        }
    }
    for (int64_t i = 0; i < width; i++)
        highest[i] = chunk->highest[item + i];
    for (int64_t c = 0; c < n_classes; c++)
        for (int64_t i = 0; i < width; i++)
            highest[i] = logit[c][i] > highest[i] ? logit[c][i] : highest[i];
    for (int64_t c = 0; c < n_classes; c++)
        for (int64_t i = 0; i < width; i++)
            part[i] += fast_exp(logit[c][i] - highest[i]);
    for (int64_t i = 0; i < width; i++) {
        /* Online softmax: what was summed so far is brought to the new maximum. */
        chunk->sum[item + i] = chunk->sum[item + i] * fast_exp(chunk->highest[item + i] - highest[i]) + part[i];
        chunk->highest[item + i] = highest[i];
    }
}

/* Turns a class's products into gradients of them; `logit` and `slope` have room for the batch. */
INLINE void class_backward(const Chunk *chunk, int64_t class, float *logit, float *slope, int bf16)
{
    int64_t batch = chunk->batch;
    class_logits(chunk, class, 0, batch, logit, bf16);
    for (int64_t i = 0; i < batch; i++)
        slope[i] = fast_exp(logit[i] - chunk->rest[i]) * chunk->rest_gradient[i];
    /* Also where nothing is left for `rest`, and what stands there is NaN. */
    for (int64_t s = chunk->single_offset[class]; s < chunk->single_offset[class + 1]; s++)
        slope[chunk->single_item[s]] = chunk->single_gradient[s];
    if (chunk->bias) {
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < batch; i++)
            sum += slope[i];
        chunk->bias_gradient[class] = sum;
    }
    for (int64_t r = 0; r < chunk->rows_per_class; r++) {
        int64_t row = class * chunk->rows_per_class + r;
        float scale = chunk->inverse_norm ? chunk->inverse_norm[row] : 1.0f;
        float shift = chunk->bias ? chunk->bias[class] : 0.0f, along = 0;
        void *products = (void *)shifted(chunk->products, row * batch, bf16);
        int last = r == chunk->rows_per_class - 1;
#pragma omp simd reduction(+ : along)
        for (int64_t i = 0; i < batch; i++) {
            float product = get(products, i, bf16);
            /* The nearest row has the slope; of equals the first, and the last what is left. */
            float left = slope[i];
            float mine = product * scale + shift >= logit[i] || last ? left : 0.0f;
            slope[i] = left - mine;
            along += mine * product;
            put(products, i, mine * scale, bf16);
        }
        /* w / |w| does not change along w, so the gradient has no part along it. */
        chunk->radial[row] = chunk->inverse_norm ? along * scale * scale * scale : 0.0f;
    }
}

EACH_CPU static void one_forward(const Chunk *chunk, int64_t class, int64_t n_classes, int bf16)
{
    for (int64_t item = 0; item < chunk->batch; item += BLOCK)
        if (chunk->batch - item >= BLOCK && bf16)
            tile_forward(chunk, class, n_classes, item, BLOCK, 1);
        else if (chunk->batch - item >= BLOCK)
            tile_forward(chunk, class, n_classes, item, BLOCK, 0);
        else
            tile_forward(chunk, class, n_classes, item, chunk->batch - item, bf16);
}

EACH_CPU static void one_backward(const Chunk *chunk, int64_t class, float *logit, float *slope, int bf16)
{
    if (bf16)
        class_backward(chunk, class, logit, slope, 1);
    else
        class_backward(chunk, class, logit, slope, 0);
}

/* Takes a chunk of classes into the running values, of which every thread has its own: `hardest` (threads, batch, k),
   `hardest_class` likewise, `highest` and `sum` (threads, batch). `target` (batch,) is set where its class is here. */
EXPORT int head_forward(void *products, const float *inverse_norm, const float *bias, const int64_t *label,
                        float *target, float *hardest, int64_t *hardest_class, float *highest, double *sum,
                        int64_t first, int64_t n_classes, int64_t rows_per_class, int64_t batch, int64_t k,
                        int64_t bf16, int64_t n_threads)
{
#pragma omp parallel num_threads(n_threads)
    {
        int64_t thread = 0;
#ifdef _OPENMP
        thread = omp_get_thread_num();
#endif
        Chunk chunk = {.products = products, .inverse_norm = inverse_norm, .bias = bias, .first = first,
                       .n_classes = n_classes, .rows_per_class = rows_per_class, .batch = batch, .k = k,
                       .label = label, .target = target, .hardest = hardest + thread * batch * k,
                       .hardest_class = hardest_class + thread * batch * k, .highest = highest + thread * batch,
                       .sum = sum + thread * batch};
#pragma omp for schedule(static)
        for (int64_t class = 0; class < n_classes; class += CLASSES)
            one_forward(&chunk, class, n_classes - class < CLASSES ? n_classes - class : CLASSES, bf16);
    }
    return 0;
}

/* Overwrites products by their gradients. `single_gradient` are those of logits that are not part of `rest`, sorted by
   class: of `single_item`, from `single_offset` (n_classes + 1) of a class on. `radial` (rows,) is what to subtract of
   each weight row from its gradient. 0, or -1 where there was no memory. */
EXPORT int head_backward(void *products, const float *inverse_norm, const float *bias, const float *rest,
                         const float *rest_gradient, const float *single_gradient, const int64_t *single_offset,
                         const int64_t *single_item, float *radial, float *bias_gradient, int64_t n_classes,
                         int64_t rows_per_class, int64_t batch, int64_t bf16, int64_t n_threads)
{
    int failed = 0;
#pragma omp parallel num_threads(n_threads) reduction(| : failed)
    {
        Chunk chunk = {.products = products, .inverse_norm = inverse_norm, .bias = bias, .n_classes = n_classes,
                       .rows_per_class = rows_per_class, .batch = batch, .rest = rest, .rest_gradient = rest_gradient,
                       .single_gradient = single_gradient, .single_offset = single_offset,
                       .single_item = single_item, .radial = radial, .bias_gradient = bias_gradient};
        float *room = malloc(2 * batch * sizeof(float));
        failed = !room;
#pragma omp for schedule(static)
        for (int64_t class = 0; class < n_classes; class++)
            if (room)
                one_backward(&chunk, class, room, room + batch, bf16);
        free(room);
    }
    return -failed;
}

INLINE void row_prepare(const float *row, int64_t dim, float *inverse_norm, void *rounded)
{
    float square = 0;
    if (inverse_norm) {
#pragma omp simd reduction(+ : square)
        for (int64_t d = 0; d < dim; d++)
            square += row[d] * row[d];
        float norm = __builtin_sqrtf(square);
        *inverse_norm = 1.0f / (norm > 1e-12f ? norm : norm == norm ? 1e-12f : norm);
    }
    for (int64_t d = 0; rounded && d < dim; d++)
        put(rounded, d, row[d], 1);
}

EACH_CPU static void some_prepare(const float *weight, float *inverse_norm, uint16_t *rounded, int64_t from,
                                  int64_t to, int64_t dim)
{
    for (int64_t row = from; row < to; row++)
        row_prepare(weight + row * dim, dim, inverse_norm ? inverse_norm + row : NULL,
                    rounded ? rounded + row * dim : NULL);
}

EACH_CPU static void some_finish(const void *product, const float *weight, const float *radial, float *gradient,
                                 int64_t from, int64_t to, int64_t dim, int bf16)
{
    for (int64_t row = from; row < to; row++)
        for (int64_t d = row * dim; d < (row + 1) * dim; d++)
            gradient[d] = get(product, d, bf16) - radial[row] * weight[d];
}

/* Weight rows (n_rows, dim) to 1 / their lengths and to bfloat16, as far as these are asked for. */
EXPORT int head_prepare(const float *weight, float *inverse_norm, uint16_t *rounded, int64_t n_rows, int64_t dim,
                        int64_t bf16, int64_t n_threads)
{
    (void)bf16;
#pragma omp parallel for num_threads(n_threads) schedule(static)
    for (int64_t part = 0; part < n_threads; part++)
        some_prepare(weight, inverse_norm, rounded, n_rows * part / n_threads, n_rows * (part + 1) / n_threads, dim);
    return 0;
}

/* gradient = product - radial * weight, (n_rows, dim); `product` may be `gradient` itself. */
EXPORT int head_finish(const void *product, const float *weight, const float *radial, float *gradient, int64_t n_rows,
                       int64_t dim, int64_t bf16, int64_t n_threads)
{
#pragma omp parallel for num_threads(n_threads) schedule(static)
    for (int64_t part = 0; part < n_threads; part++)
        some_finish(product, weight, radial, gradient, n_rows * part / n_threads, n_rows * (part + 1) / n_threads, dim,
                    bf16);
    return 0;
}

// Each kind of text on the page that stands out less from what is behind it than WCAG's level AA asks, and by how much.
() => {
  const canvas = Object.assign(document.createElement("canvas"), {width: 1, height: 1}).getContext("2d", {willReadFrequently: true});
  function shade(colour) { // as red, green, blue and opacity, whatever notation it has
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const [red, green, blue, alpha] = canvas.getImageData(0, 0, 1, 1).data;
    return [red, green, blue, alpha / 255];
  }
  const over = (front, back) => [0, 1, 2].map((i) => front[i] * front[3] + back[i] * (1 - front[3])).concat(1);
  function up(element) {
    const found = [];
    for (let each = element; each; each = each.parentElement) found.push(getComputedStyle(each));
    return found;
  }
  function luminance(colour) {
    const [red, green, blue] = colour.map((each) => each / 255).map(
      (each) => each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4);
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  }
  const pale = {}, walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const element = walk.currentNode.parentElement, style = getComputedStyle(element);
    if (!walk.currentNode.data.trim() || !element.getClientRects().length) continue;
    if (element.closest("script, style, noscript, :disabled, .visually-hidden, .skip-link")) continue;
    const styles = up(element), back = styles.map((each) => shade(each.backgroundColor)).reduceRight((under, each) => over(each, under), [255, 255, 255, 1]);
    const ink = shade(style.color);
    ink[3] *= styles.reduce((all, each) => all * Number(each.opacity), 1);
    const [light, dark] = [luminance(over(ink, back)), luminance(back)].sort((a, b) => b - a);
    const ratio = (light + 0.05) / (dark + 0.05), size = parseFloat(style.fontSize);
    const wanted = size >= 24 || size >= 18.66 && Number(style.fontWeight) >= 700 ? 3 : 4.5;
    if (ratio < wanted) pale[element.className || element.tagName] = ratio.toFixed(2);
  }
  return pale;
}

"use strict";
element("h1", PAGE, "How a margin works");
marginExplorer(section("margin", "The margin explorer", "All curves come from the heads that spkver trains with."), DATA.margin);
finish();
